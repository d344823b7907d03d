//! What a pool of gigabytes costs, by the kernel's count of struct pages and the pool's own.

use recoup::pool::{HugeTlb, OwnerOptions, Pool};
use recoup_sys::hugetlb::OPTIMIZE_VMEMMAP;
use recoup_sys::units::PMD_TABLE_SPAN;
use recoup_sys::{Bytes, Pages};
use recoup_testkit::{HugePages, kernel, require, require_in_guest};

const GIB: u64 = 1 << 30;

fn struct_pages() -> Bytes {
    Pages(kernel::struct_pages()).bytes()
}

#[test]
fn huge_gigabytes_cost_a_pool_less_than_a_10000th() {
    require!(struct_pages() > Bytes::ZERO, "counted struct pages (Linux 6.11)");
    let source = HugeTlb::one_gib();
    require_in_guest!("gigabytes", source.is_ok(), "hugetlb pages of 1 GiB");
    for gigabytes in [1, 4, 16] {
        let guard = HugePages::reserve_with(&[(OPTIMIZE_VMEMMAP, "0")], &[(PMD_TABLE_SPAN, 0)]);
        let _guard = guard.expect("none are asked for");
        let source = HugeTlb::one_gib().expect("just looked");
        let (before, free) = (struct_pages(), kernel::meminfo_bytes("MemFree"));
        let came = source.reserve(gigabytes).expect("root reserves");
        let free_after = kernel::meminfo_bytes("MemFree");
        require_in_guest!("gigabytes", came.shortfall.is_none(), "16 free huge pages of 1 GiB");
        let left = gigabytes * GIB / 64 - (before - struct_pages()).0;
        let pool = Pool::new(source, Bytes(gigabytes * GIB));
        // One is enough: books are as large whether gigabytes are used or not, and all that are used would
        // take as much memory of the host.
        let owner = pool.owner(OwnerOptions::default()).expect("an owner");
        let _one = owner.gigabyte().expect("a gigabyte");
        let metadata = left + pool.usage().bookkeeping.0;
        println!("{gigabytes} GiB: {left} bytes of struct pages, {metadata} of metadata in all");
        // What is no longer needed for them is free, but for what others take meanwhile.
        let taken = gigabytes * GIB - (gigabytes * GIB / 64 - left);
        assert!(
            free.saturating_sub(free_after) < taken + (64 << 20),
            "{free} {free_after} {taken}"
        );
        assert!(metadata * 10_000 <= gigabytes * GIB, "{metadata} bytes");
    }
}
