//! Page tables go with the last page that their owner used, as `VmPTE` shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use recoup::discard::{Discarder, OwnedRange, SplitPolicy, table_reclaim};
use recoup_sys::reserved::{HugePages, Reserved, TableReclaim};
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, Features, PageRange, Pages};
use recoup_testkit::numbers::Numbers;
use recoup_testkit::{HostSetting, kernel, require};

use crate::common::PER_BLOCK;

const TABLE: u64 = 4096;

fn tables() -> u64 {
    kernel::status_bytes(kernel::own_pid(), "VmPTE")
}

/// Tables are freed after a grace period: waits until at most `bytes` are left.
fn wait_for_tables(bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while tables() > bytes {
        assert!(Instant::now() < deadline, "{} bytes of page tables, not {bytes}", tables());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn range_of(owned: &OwnedRange, first: u64, count: u64) -> PageRange {
    PageRange::starting_at(owned.reserved().pages().start + Pages(first), Pages(count))
}

fn owned(gigabytes: u64, by: TableReclaim) -> OwnedRange {
    let length = Bytes((gigabytes + 1) * PMD_TABLE_SPAN.0);
    let reserved = Reserved::map(length, HugePages::Unwanted, by).expect("addresses");
    OwnedRange::new(reserved, Arc::new(Discarder::new()))
}

/// Takes and touches one page in every block, then gives each back by itself.
fn touch_and_give_back(by: TableReclaim) {
    require!(kernel::is_root(), "root");
    // One test at a time: the tables of others would count.
    let _one_at_a_time = HostSetting::huge_pages("madvise");
    let blocks = 1024;
    let mut owned = owned(2, by);
    let before = tables();
    for block in 0..blocks {
        owned.reuse(range_of(&owned, block * PER_BLOCK + 5, 2));
        owned.contents().expect("mapped here").touch(Pages(block * PER_BLOCK + 5), Pages(2));
    }
    let full = tables();
    assert!(full >= before + blocks * TABLE, "{full} after {before}");
    for block in 0..blocks {
        for page in [5, 6] {
            let pages = range_of(&owned, block * PER_BLOCK + page, 1);
            owned.discard(pages, SplitPolicy::Sync).expect("given back");
        }
    }
    wait_for_tables(before + 4 * TABLE);
}

#[test]
fn tables_of_many_small_discards_go_by_mapping_anew_on_every_kernel() {
    touch_and_give_back(TableReclaim::Remap);
}

#[test]
fn tables_of_many_small_discards_go_the_way_that_this_kernel_has() {
    touch_and_give_back(table_reclaim(&Features::probe().expect("features")));
}

#[test]
fn the_table_of_a_gigabyte_goes_with_its_last_block() {
    require!(kernel::is_root(), "root");
    let _one_at_a_time = HostSetting::huge_pages("madvise");
    let mut owned = owned(64, TableReclaim::Remap);
    let gigabyte = PMD_TABLE_SPAN.whole_pages().0;
    let before = tables();
    let mut freed = 0;
    for index in 0..64 {
        owned.reuse(range_of(&owned, index * gigabyte, 1));
        owned.contents().expect("mapped here").touch(Pages(index * gigabyte), Pages(1));
    }
    // Two tables each: that of the block, and that of the gigabyte.
    assert!(tables() >= before + 2 * 60 * TABLE);
    for index in 0..64 {
        let pages = range_of(&owned, index * gigabyte, 1);
        freed += owned.discard(pages, SplitPolicy::Sync).expect("given back").gigabytes;
    }
    // The range starts and ends within a gigabyte.
    assert!(freed >= 63, "{freed}");
    wait_for_tables(before + 6 * TABLE);
}

#[test]
fn tables_of_less_than_a_gigabyte_go_and_what_waited_for_a_split_is_forgotten() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let discarder = Arc::new(Discarder::new());
    let length = Bytes(64 * BLOCK.0);
    let mut owned =
        OwnedRange::map(length, HugePages::Wanted, Arc::clone(&discarder)).expect("addresses");
    let all = owned.reserved().pages();
    owned.reuse(all);
    owned.contents().expect("mapped here").touch(Pages(0), all.length());
    let unbounded = SplitPolicy::Bounded(Bytes(u64::MAX));
    for block in 0..64 {
        let half = range_of(&owned, block * PER_BLOCK, PER_BLOCK / 2);
        assert_eq!(owned.discard(half, unbounded).expect("given back").blocks, 0);
    }
    let freed = owned.discard(all, unbounded).expect("given back");
    assert_eq!((freed.blocks, freed.gigabytes), (64, 0));
    assert_eq!(discarder.waiting(), Bytes::ZERO);
}

#[test]
fn pages_in_use_keep_their_bytes_whatever_goes_around_them() {
    let blocks = 16;
    let mut owned = owned(1, TableReclaim::Remap);
    let pages = blocks * PER_BLOCK;
    let mut expected = vec![None; usize::try_from(pages).expect("a count")];
    let mut numbers = Numbers::new(0xA076_1D64_78BD_642F);
    let at = |page: u64| usize::try_from(page).expect("an index");
    let mut freed = 0;
    for step in 0..200_000_u64 {
        let (first, count) = (numbers.below(pages - 400), 1 + numbers.below(400));
        if numbers.below(8) == 0 {
            owned.reuse(range_of(&owned, first, 1));
            let bytes = step.to_le_bytes();
            owned.contents().expect("mapped here").write(at(first) * 4096, &bytes);
            expected[at(first)] = Some(step);
        } else {
            let range = range_of(&owned, first, count);
            freed += owned.discard(range, SplitPolicy::Sync).expect("given back").blocks;
            expected[at(first)..at(first + count)].fill(None);
        }
        let looked_at = numbers.below(pages);
        let mut bytes = [0; 8];
        owned.contents().expect("mapped here").read(at(looked_at) * 4096, &mut bytes);
        assert_eq!(u64::from_le_bytes(bytes), expected[at(looked_at)].unwrap_or(0));
    }
    assert!(freed > 1000, "{freed} tables were freed: this shows little");
    assert_eq!(BLOCK.whole_pages(), Pages(PER_BLOCK));
}
