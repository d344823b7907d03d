//! Memory that is there before anybody touches it.

use std::num::NonZeroUsize;

use recoup::pool::{Extent, External, HugeTlb, OwnerOptions, Pool, Source, Thp};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::pagemap::{Pagemap, Word};
use recoup_testkit::{HostSetting, require};

use super::{GIB, MIB, memfd, own_pid, pool_of, shared};

/// 70 MiB: two slices, and some.
const LENGTH: Chunks = Chunks(35);
const WORKERS: NonZeroUsize = NonZeroUsize::new(3).expect("not 0");

/// How many pages are in memory, by pagemap.
fn present(extent: &Extent) -> u64 {
    let pages = extent.page_range();
    let mut words = vec![0; usize::try_from(pages.length().0).expect("64 bits")];
    Pagemap::of_self().expect("pagemap").read(pages.start, &mut words).expect("mapped");
    words.iter().filter(|&&word| Word(word).has(Word::PRESENT)).count() as u64
}

/// Half of an extent is written, all of it prefaulted.
fn check(source: impl Source + 'static, absent_at_first: bool) {
    let (pool, owner) = pool_of(source, Bytes(GIB));
    let mut extent = owner.chunks(LENGTH).expect("room");
    let all = extent.page_range().length().0;
    assert_eq!(present(&extent) == 0, absent_at_first);
    let half = extent.len() / 2;
    extent[..half].fill(0xC3);
    extent.prefault(WORKERS).expect("memory");
    assert_eq!(present(&extent), all, "before any touch");
    assert!(extent[..half].iter().all(|&byte| byte == 0xC3));
    assert!(extent[half..].iter().all(|&byte| byte == 0));
    // Again, where everything is there.
    extent.prefault(NonZeroUsize::MIN).expect("memory");
    assert!(extent[..half].iter().all(|&byte| byte == 0xC3));
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn private_memory_is_there_before_a_touch() {
    check(Thp::private(), true);
}

#[test]
fn shared_memory_is_there_before_a_touch() {
    check(memfd(), true);
}

#[test]
fn memory_of_a_file_is_there_before_a_touch() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(GIB).expect("a sparse file");
    #[expect(unsafe_code, reason = "a promise about the file")]
    // SAFETY: nobody else knows the file.
    let source = unsafe { External::new(file, Bytes(0)..Bytes(GIB)) }.expect("its length");
    // It was zeroed for its owner, as it could be anybody's.
    check(source, false);
}

#[test]
fn hugetlb_pages_are_there_when_they_are_handed_out() {
    require!(recoup_testkit::kernel::is_root(), "root, to set huge pages apart");
    let needed = LENGTH.0 * 2;
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let before: u64 = std::fs::read_to_string(pool).unwrap_or_default().trim().parse().unwrap_or(0);
    let _setting = HostSetting::set(pool, &(before + needed).to_string());
    check(HugeTlb::two_mib().expect("pages of 2 MiB"), false);
    check(shared(HugeTlb::two_mib().expect("pages of 2 MiB")), false);
}

#[test]
fn a_few_pages_can_be_prefaulted_and_others_stay_away() {
    require!(recoup_testkit::kernel::is_root(), "root, to have base pages only");
    let _base_pages = HostSetting::huge_pages("never");
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let extent = owner.pages(Pages(8)).expect("room");
    let rest = owner.pages(Pages(MIB >> 12)).expect("room");
    extent.prefault(WORKERS).expect("memory");
    assert_eq!((present(&extent), present(&rest)), (8, 0));
    let start = extent.as_ptr().addr().get() as u64 / GIB * GIB;
    let resident = recoup_testkit::kernel::smaps_bytes_in(own_pid(), start..start + GIB, "Rss");
    assert_eq!(resident, 8 << 12);
}

#[test]
fn memory_that_cannot_be_had_is_an_error_that_names_it() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    let extent = owner.chunks(LENGTH).expect("room");
    // Somebody has taken the memory away, which no program should do: what is seen is the error.
    #[expect(unsafe_code, reason = "unmaps what is the pool's")]
    // SAFETY: nobody uses the extent from here on, nor is the pool used again.
    let unmapped = unsafe { libc::mprotect(extent.as_ptr().as_ptr().cast(), extent.len(), 0) };
    assert_eq!(unmapped, 0);
    let error = extent.prefault(WORKERS).expect_err("no memory may be there").to_string();
    assert!(error.contains("put memory behind"), "{error}");
    assert_eq!(present(&extent), 0);
}
