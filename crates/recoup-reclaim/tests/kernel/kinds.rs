//! Each kind of stuck memory, made by a real process on the running kernel, found and given back.
//! Effects are read from smaps, `status` and the cgroup's own files.

use crate::common::{KIB, MIB, only, reclaim, report, run_with};
use recoup_reclaim::plan::Kind;
use recoup_reclaim::{Mode, Reason};
use recoup_testkit::host::{MAX_PTES_NONE, THP_ENABLED};
use recoup_testkit::workload::{charge, own_cgroup};
use recoup_testkit::{HostSetting, HugePages, Workload, kernel, require};

/// Pages of the regions that tests use: 64 MiB.
const PAGES: u64 = 16384;
const BLOCK: u64 = 512;
const THPS: u64 = PAGES / BLOCK;

/// A workload with a region of huge pages, each filled and then discarded but for its first
/// `kept` pages.
fn with_holes(workload: &mut Workload, kept: u64) -> Option<std::ops::Range<u64>> {
    let addresses = filled_huge_pages(workload)?;
    workload.tell(&format!("discard a {kept} {} {BLOCK} {THPS}", BLOCK - kept));
    Some(addresses)
}

/// A region of huge pages, filled; nothing where the kernel has too few huge pages left to give.
fn filled_huge_pages(workload: &mut Workload) -> Option<std::ops::Range<u64>> {
    let addresses = workload.map(&format!("map a {PAGES} huge"));
    workload.tell("fill a");
    let huge = kernel::smaps_bytes_in(workload.pid(), addresses.clone(), "AnonHugePages");
    (huge == THPS * 2 * MIB).then_some(addresses)
}

/// What a machine with fragmented memory lacks.
const HUGE_PAGES: &str = "memory that is not too fragmented for huge pages";

#[test]
fn holes_are_found_per_mapping_and_their_memory_comes_back_to_the_charge() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let cgroup = own_cgroup("holes");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    let mut workload = Workload::start_in(&cgroup);
    let holed = with_holes(&mut workload, 3);
    require!(holed.is_some(), HUGE_PAGES);
    let addresses = holed.expect("just looked");
    let holes = THPS * (BLOCK - 3) * 4 * KIB;

    let found = report(&workload);
    assert_eq!(found.stuck.thp_holes.0, holes);
    assert_eq!(found.stuck.thp_holes_count, THPS);
    let mapping = &found.mappings[0];
    assert!(mapping.range.start.address() <= addresses.start);
    assert_eq!(mapping.stuck.thp_holes.0, holes);

    let before = charge(&cgroup);
    let outcome = reclaim(&workload);
    let freed = before - charge(&cgroup);
    assert_eq!(outcome.recovered.thp_holes.0, holes);
    assert_eq!(outcome.recovered.thp_holes_count, THPS);
    assert!(freed * 100 >= holes * 99, "{freed} of {holes} came back to the charge");
    assert_eq!(workload.tell(&format!("verify a 0 3 {BLOCK} {THPS}")), "0 wrong");
    assert_eq!(report(&workload).stuck.thp_holes.0, 0, "nothing is found twice");
}

#[test]
fn whole_huge_pages_are_left_whole() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    let filled = filled_huge_pages(&mut workload);
    require!(filled.is_some(), HUGE_PAGES);
    let addresses = filled.expect("just looked");
    workload.tell(&format!("discard a 10 20 {BLOCK} 4"));
    let huge = |workload: &Workload| {
        kernel::smaps_bytes_in(workload.pid(), addresses.clone(), "AnonHugePages")
    };
    assert_eq!(huge(&workload), (THPS - 4) * 2 * MIB);
    let outcome = reclaim(&workload);
    assert_eq!(outcome.recovered.thp_holes_count, 4);
    assert_eq!(huge(&workload), (THPS - 4) * 2 * MIB, "the other huge pages stay whole");
}

#[test]
fn a_hole_that_is_in_use_again_is_still_found_beside_the_new_memory() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    require!(with_holes(&mut workload, 100).is_some(), HUGE_PAGES);
    workload.tell(&format!("touch a 300 50 {BLOCK} {THPS}"));
    let outcome = reclaim(&workload);
    // The new pages are small ones of their own: the hole in the huge page is as large as before.
    assert_eq!(outcome.recovered.thp_holes.0, THPS * (BLOCK - 100) * 4 * KIB);
    assert_eq!(workload.tell(&format!("verify a 0 100 {BLOCK} {THPS}")), "0 wrong");
}

#[test]
fn a_hole_made_by_unmapping_a_part_is_found() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    workload.map("map a 512 huge");
    workload.tell("fill a");
    // Another setting for a part divides the mapping in two, of which each maps a part of the page.
    workload.tell("base a 0 100 512 1");
    let found = report(&workload);
    assert_eq!(found.stuck.thp_holes.0, 0, "divided, but mapped as a whole: {:?}", found.stuck);
    workload.tell("discard a 90 20 512 1");
    let outcome = reclaim(&workload);
    assert_eq!(outcome.stuck.thp_holes.0, 20 * 4 * KIB);
    assert_eq!(outcome.recovered.thp_holes.0, 20 * 4 * KIB);
}

#[test]
fn small_huge_pages_have_holes_too() {
    require!(kernel::is_root(), "root");
    let size = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
    require!(std::path::Path::new(size).exists(), "64 KiB huge pages (Linux 6.8)");
    let _mthp = HostSetting::set_all(&[(size, "madvise"), (MAX_PTES_NONE, "0")]);
    let big = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";
    let big_before = std::fs::read_to_string(big).expect("the setting of 2 MiB pages");
    require!(!big_before.contains("[always]"), "2 MiB huge pages not always on");
    let mut workload = Workload::start();
    // An odd size keeps the kernel from using 2 MiB pages.
    let addresses = workload.map("map a 500 huge");
    workload.tell("fill a");
    workload.tell("discard a 4 12 16 31");
    let found = report(&workload);
    assert_eq!(found.stuck.thp_holes_count, 31, "{:?} in {addresses:x?}", found.stuck);
    assert_eq!(found.stuck.thp_holes.0, 31 * 12 * 4 * KIB);
    let outcome = reclaim(&workload);
    assert_eq!(outcome.recovered.thp_holes, found.stuck.thp_holes);
    assert_eq!(workload.tell("verify a 0 4 16 31"), "0 wrong");
}

#[test]
fn what_a_forked_child_shares_is_left_alone_and_said_so() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    require!(filled_huge_pages(&mut workload).is_some(), HUGE_PAGES);
    workload.tell("fork");
    workload.tell(&format!("discard a 10 400 {BLOCK} {THPS}"));
    let outcome = reclaim(&workload);
    assert_eq!(outcome.stuck.thp_holes.0, 0);
    assert_eq!(outcome.shared_holes.0, THPS * 400 * 4 * KIB);
    assert_eq!(outcome.left_alone.0[&Reason::Shared], outcome.shared_holes);
    assert_eq!(outcome.recovered.thp_holes.0, 0);
}

#[test]
fn locked_memory_is_left_alone_and_said_so() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    require!(with_holes(&mut workload, 100).is_some(), HUGE_PAGES);
    workload.tell(&format!("lock a 0 {} {PAGES} 1", PAGES / 2));
    let outcome = reclaim(&workload);
    let locked = outcome.left_alone.0.get(&Reason::Locked).copied().unwrap_or_default();
    assert_eq!(locked.0, THPS / 2 * (BLOCK - 100) * 4 * KIB, "{:?}", outcome.left_alone);
    assert_eq!(outcome.recovered.thp_holes.0 + locked.0, outcome.stuck.thp_holes.0);
}

/// Lazily freed base pages that may not show it yet: each CPU gathers up to 31 (15 before 6.10)
/// before it marks them.
fn not_seen_yet() -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    31 * 4 * KIB * cpus as u64
}

#[test]
fn lazily_freed_memory_leaves_and_what_is_written_again_stays() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    let addresses = workload.map(&format!("map a {PAGES} base"));
    workload.tell("fill a");
    workload.tell(&format!("free a 0 {PAGES} {PAGES} 1"));
    // One page in 64 is in use again, with its own value.
    workload.tell(&format!("fill a 5 1 64 {}", PAGES / 64));
    let rss = || kernel::smaps_bytes_in(workload.pid(), addresses.clone(), "Rss");
    assert_eq!(rss(), PAGES * 4 * KIB, "lazily freed pages are still resident");

    let outcome = reclaim(&workload);
    let used_again = PAGES / 64 * 4 * KIB;
    let freed = PAGES * 4 * KIB - used_again;
    let recovered = outcome.recovered.lazyfree.0;
    assert!(recovered <= freed && recovered + not_seen_yet() >= freed, "{recovered} of {freed}");
    let kept = outcome.left_alone.0[&Reason::InUseAgain].0;
    assert!(kept <= used_again && kept + not_seen_yet() >= used_again, "{kept} of {used_again}");
    assert_eq!(rss(), PAGES * 4 * KIB - recovered);
    assert_eq!(workload.tell(&format!("verify a 5 1 64 {}", PAGES / 64)), "0 wrong");
}

#[test]
fn a_lazily_freed_huge_page_leaves_whole() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    let filled = filled_huge_pages(&mut workload);
    require!(filled.is_some(), HUGE_PAGES);
    let addresses = filled.expect("just looked");
    workload.tell(&format!("free a 0 {} {PAGES} 1", PAGES / 2));
    let outcome = reclaim(&workload);
    assert_eq!(outcome.recovered.lazyfree.0, PAGES / 2 * 4 * KIB);
    let half = PAGES / 2 * 4 * KIB;
    assert_eq!(kernel::smaps_bytes_in(workload.pid(), addresses.clone(), "Rss"), half);
    assert_eq!(kernel::smaps_bytes_in(workload.pid(), addresses, "AnonHugePages"), half);
    assert_eq!(workload.tell(&format!("verify a {} {} 1 1", PAGES / 2, PAGES / 2)), "0 wrong");
}

#[test]
fn empty_and_zero_page_tables_are_counted_as_the_kernel_counts_them() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    let before = kernel::status_bytes(workload.pid(), "VmPTE");
    let clean = report(&workload);
    assert!(clean.stuck.empty_tables.0 <= 32 * KIB, "{:?}", clean.stuck);
    let (empty, zero) = (1000, 300);
    workload.map(&format!("map e {} base", 2048 * BLOCK));
    workload.map(&format!("map z {} base", 2048 * BLOCK));
    workload.tell(&format!("touch e 3 1 {BLOCK} {empty}"));
    workload.tell(&format!("discard e 3 1 {BLOCK} {empty}"));
    workload.tell(&format!("peek z 9 {BLOCK} {zero}"));
    let grown = kernel::status_bytes(workload.pid(), "VmPTE") - before;
    let found = report(&workload);
    assert_eq!(found.stuck.zero_tables.0, zero * 4 * KIB);
    // Those that were empty before may be in use by now. What must be assumed to be needed (devices, the
    // vdso) may share a table with what is seen: a few too few are told then, never too many.
    let (seen, made, a_few) = (found.stuck.empty_tables.0, empty * 4 * KIB, 32 * KIB);
    let upper = grown.saturating_sub((empty + zero) * 4 * KIB) + clean.stuck.empty_tables.0;
    assert!((made - a_few..=made + upper).contains(&seen), "{seen}, grown by {grown}");
    let outcome = reclaim(&workload);
    let tables = outcome.stuck.empty_tables + outcome.stuck.zero_tables;
    assert_eq!(outcome.left_alone.0[&Reason::OnlyFromInside], tables);
}

#[test]
fn tables_of_shared_memory_and_files_are_told_as_reconstructable() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    let before = report(&workload).reconstructable_tables;
    workload.tell(&format!("shared s {}", 64 * BLOCK));
    workload.tell(&format!("touch-shared s 0 {BLOCK} 64"));
    let found = report(&workload);
    assert_eq!(found.reconstructable_tables.0 - before.0, 64 * 4 * KIB);
    assert_eq!(found.stuck.thp_holes.0, 0);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    require!(with_holes(&mut workload, 3).is_some(), HUGE_PAGES);
    let splits = kernel::vmstat("thp_split_page ");
    let outcome = run_with(&workload, |request| request.mode = Mode::DryRun);
    assert_eq!(outcome.mappings[0].planned.splits, THPS);
    assert_eq!(outcome.recovered.total().0, 0);
    assert_eq!(kernel::vmstat("thp_split_page "), splits);
    assert_eq!(report(&workload).stuck.thp_holes_count, THPS);
}

#[test]
fn only_the_kind_that_was_asked_for_is_given_back() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    require!(with_holes(&mut workload, 3).is_some(), HUGE_PAGES);
    workload.map("map l 2048 base");
    workload.tell("fill l");
    workload.tell("free l 0 2048 2048 1");
    let outcome = run_with(&workload, only(Kind::LazyFree));
    assert_eq!(outcome.recovered.thp_holes.0, 0);
    assert!(outcome.recovered.lazyfree.0 + not_seen_yet() >= 8 * MIB, "{:?}", outcome.recovered);
    assert_eq!(report(&workload).stuck.thp_holes_count, THPS);
}

#[test]
fn small_holes_are_left_alone_when_asked() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    workload.map("map a 1024 huge");
    workload.tell("fill a");
    workload.tell("discard a 10 5 512 1");
    workload.tell("discard a 600 300 512 1");
    let outcome = run_with(&workload, |request| {
        request.policy.smallest = recoup_sys::Bytes(64 * KIB);
    });
    assert_eq!(outcome.recovered.thp_holes.0, 300 * 4 * KIB);
    assert_eq!(outcome.left_alone.0[&Reason::TooSmall].0, 5 * 4 * KIB);
}

#[test]
fn huge_pages_that_are_in_use_again_keep_their_mappings_but_for_one_tried() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    let filled = filled_huge_pages(&mut workload);
    require!(filled.is_some(), HUGE_PAGES);
    let addresses = filled.expect("just looked");
    workload.tell(&format!("free a 0 {PAGES} {PAGES} 1"));
    workload.tell("fill a");
    let outcome = reclaim(&workload);
    assert_eq!(outcome.recovered.lazyfree.0, 0);
    let left_alone = &outcome.left_alone.0;
    let tried = left_alone[&Reason::InUseAgain].0;
    assert_eq!(tried + left_alone[&Reason::NotTried].0, PAGES * 4 * KIB);
    let huge = kernel::smaps_bytes_in(workload.pid(), addresses, "AnonHugePages");
    assert!(huge >= (THPS - 1) * 2 * MIB, "{huge}");
    assert_eq!(workload.tell("verify a"), "0 wrong");
}

#[test]
fn lazily_freed_memory_that_a_child_shares_is_not_counted() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    workload.map("map a 2048 base");
    workload.tell("fill a");
    workload.tell("free a 0 2048 2048 1");
    workload.tell("fork");
    assert_eq!(report(&workload).stuck.lazyfree.0, 0);
}

#[test]
fn tables_of_the_huge_zero_page_are_zero_tables() {
    require!(kernel::is_root(), "root");
    let setting = "/sys/kernel/mm/transparent_hugepage/use_zero_page";
    let _zero = HostSetting::set(setting, "1");
    let thp = std::fs::read_to_string(THP_ENABLED).expect("the setting");
    require!(!thp.contains("[never]"), "transparent huge pages");
    let mut workload = Workload::start();
    workload.map(&format!("map z {} huge", 16 * BLOCK));
    workload.tell(&format!("peek z 0 {BLOCK} 16"));
    let found = report(&workload);
    assert_eq!(found.stuck.zero_tables.0, 16 * 4 * KIB, "{:?}", found.stuck);
}

#[test]
fn small_memory_is_enough_to_find_holes_and_give_them_back() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    workload.map("map a 2048 huge");
    workload.tell("fill a");
    workload.tell("discard a 5 507 512 4");
    let outcome = reclaim(&workload);
    require!(outcome.stuck.thp_holes_count > 0, HUGE_PAGES);
    assert_eq!(outcome.recovered.thp_holes, outcome.stuck.thp_holes);
    assert_eq!(workload.tell("verify a 0 5 512 4"), "0 wrong");
}

#[test]
fn hugetlb_memory_is_recognised_by_its_page_size_and_no_table_of_it_is_called_empty() {
    require!(kernel::is_root(), "root");
    let pages = HugePages::reserve(&[(recoup_sys::units::BLOCK, 4)]);
    require!(pages.is_ok(), "four free 2 MiB pages");
    let mut workload = Workload::start();
    let before = report(&workload);
    let addresses = workload.map(&format!("hugetlb h {}", 4 * BLOCK));
    workload.tell(&format!("touch-shared h 0 {BLOCK} 4"));
    let found = report(&workload);
    assert!(found.pages.0.abs_diff(before.pages.0) < BLOCK, "none of it is scanned");
    assert!(found.stuck.empty_tables.0 <= before.stuck.empty_tables.0 + 4 * 4 * KIB);
    require!(kernel::version() >= (6, 11), "PROCMAP_QUERY (Linux 6.11)");
    let process = recoup_sys::Process::open(workload.pid()).expect("it lives");
    let page = recoup_sys::PageIdx::containing(addresses.start);
    assert_eq!(process.page_size_at(page).expect("an answer").0, 2 * MIB);
}
