//! The probe says what is true of the running kernel: held against its release, which the probe
//! itself never looks at.

use recoup_sys::madvise::{Advice, MAX_RANGES, process_madvise};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Features, PageRange, Pages, Process, Support};
use recoup_testkit::kernel;

#[test]
fn page_tables_are_shown_from_6_7_to_7_2_and_missing_with_words_elsewhere() {
    let features = Features::probe().unwrap();
    assert_eq!(
        features.pagemap_scan.works(),
        kernel::version() >= (6, 7),
        "{:?}",
        features.pagemap_scan
    );
    match (&features.empty_tables, kernel::shows_page_tables()) {
        (Support::Works, true) => {}
        (Support::Missing { why, remedy }, false) => {
            assert!(why.contains("PAGEMAP_SCAN"), "{why}");
            assert!(remedy.contains("6.7"), "{remedy}");
        }
        (found, shown) => panic!("Linux {:?} (6.7 to 7.2: {shown}): {found:?}", kernel::version()),
    }
}

#[test]
fn every_answer_that_is_no_says_why_and_what_to_do() {
    for (name, support) in Features::probe().unwrap().named() {
        if let Support::Missing { why, remedy } = support {
            assert!(!why.is_empty() && !remedy.is_empty(), "{name}");
        }
    }
}

#[test]
fn mappings_can_be_queried_since_6_11() {
    let features = Features::probe().unwrap();
    assert_eq!(
        features.procmap_query.works(),
        kernel::version() >= (6, 11),
        "{:?}",
        features.procmap_query
    );
}

#[test]
fn huge_pages_come_in_small_sizes_since_6_8_only() {
    let sizes = recoup_sys::thp::Thp::of_host().sizes();
    let small = sizes.iter().any(|size| size.order < recoup_sys::units::PMD_ORDER);
    assert_eq!(small, kernel::version() >= (6, 8), "{sizes:?}");
}

/// Held against the kernel's own count of this process's tables, where it was built to reclaim them.
#[test]
fn tables_are_reclaimed_by_large_discards_only_since_6_14() {
    let features = Features::probe().unwrap();
    if features.table_reclaim.works() {
        assert!(kernel::version() >= (6, 14), "Linux {:?}", kernel::version());
    }
    let tables = || {
        let own = Process::own().unwrap();
        own.summary().unwrap().page_tables
    };
    let blocks = 4096;
    let mut region = Region::new(Bytes(blocks * BLOCK.0)).unwrap();
    let all = region.pages().length();
    region.advise(Pages(0), all, OwnAdvice::BasePages).ok();
    for block in 0..blocks {
        region.touch(Pages(block * BLOCK.whole_pages().0), Pages(1));
    }
    let full = tables();
    region.advise(Pages(0), all, OwnAdvice::Discard).unwrap();
    // Tables are freed behind the back of readers without locks: some time after the call.
    let freed_in_time = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        full.saturating_sub(tables()) > Pages(blocks / 2).bytes()
    });
    assert_eq!(freed_in_time, features.table_reclaim.works());
}

#[test]
fn one_call_of_process_madvise_takes_no_more_ranges_than_the_kernel_allows() {
    let features = Features::probe().unwrap();
    if !features.process_madvise.works() {
        eprintln!("skipped: process_madvise: {:?}", features.process_madvise);
        return;
    }
    let own = Process::own().unwrap();
    let mut region = Region::new(Pages(4096).bytes()).unwrap();
    region.touch(Pages(0), Pages(4096));
    let start = region.pages().start;
    let range = |i: u64| PageRange::starting_at(start + Pages(2 * i), Pages(1));
    let ranges: Vec<PageRange> = (0..2000).map(range).collect();
    let advised = process_madvise(&own, &ranges, Advice::Cold);
    assert_eq!(advised.done, Pages(MAX_RANGES as u64), "{:?}", advised.stopped);
}
