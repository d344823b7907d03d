//! What was given back is no longer charged, and nothing else changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use recoup::SplitPolicy::{Bounded, Deferred, Sync};
use recoup::discard::{Discarder, SplitPolicy, Worker};
use recoup_sys::cgroup::OwnCgroup;
use recoup_sys::own::Backing;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Pages};
use recoup_testkit::numbers::Numbers;
use recoup_testkit::tracer::{Moment, Tracee};
use recoup_testkit::workload::{InOwnCgroup, charge, own_cgroup};
use recoup_testkit::{HostSetting, HugePages, Workload, kernel, require};

use crate::common::{HUGE_PAGES, MIB, PER_BLOCK, fill, huge, mark, marked, smaps};

const THPS: u64 = 64;
/// What charges may err by: each CPU keeps up to 64 pages in stock.
const SLACK: u64 = 2 * MIB;
/// The same where a single huge page's half has to be seen: no more than two CPUs have stocks there.
const WITHIN: u64 = MIB / 4 * 3;

/// Gives back all but the first page of each huge page, in three pieces, and says by how much the
/// charge fell.
fn thin_out(
    region: &mut Region,
    discarder: &Discarder,
    policy: SplitPolicy,
    in_group: &InOwnCgroup,
) -> u64 {
    let before = in_group.charge();
    for block in 0..THPS {
        for (first, count) in [(1, 100), (200, 312), (101, 99)] {
            let released = region.release(Pages(block * PER_BLOCK + first), Pages(count));
            discarder.discard(released, policy).expect("given back");
        }
    }
    before.saturating_sub(in_group.charge())
}

#[test]
fn with_sync_the_charge_falls_by_what_is_given_back() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("sync");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");

    let discarder = Discarder::new();
    let fell = thin_out(&mut region, &discarder, Sync, &in_group);
    let given_back = THPS * (PER_BLOCK - 1) * 4096;
    assert!(fell + SLACK >= given_back, "the charge fell by {fell} of {given_back}");
    assert_eq!(discarder.waiting(), Bytes::ZERO);
    for block in 0..THPS {
        assert_eq!(marked(&region, block * PER_BLOCK), block * PER_BLOCK + 1);
        assert_eq!(marked(&region, block * PER_BLOCK + 7), 0);
    }
}

#[test]
fn with_deferred_the_kernel_keeps_the_charge_until_something_splits() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("deferred");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");

    let fell = thin_out(&mut region, &Discarder::new(), Deferred, &in_group);
    assert!(fell <= SLACK, "what recoup is for: {fell} bytes came back by themselves");
    // Nothing is known of these holes, and the next discard in a block still cures it.
    let discarder = Discarder::new();
    for block in 0..THPS {
        mark(&mut region, block * PER_BLOCK + 1);
        let released = region.release(Pages(block * PER_BLOCK + 1), Pages(1));
        discarder.discard(released, Sync).expect("given back");
    }
    let left = in_group.charge();
    assert!(left <= smaps(&region, "Rss") + 16 * MIB, "{left} bytes are still charged");
}

#[test]
fn holes_made_behind_its_back_are_cured_though_a_base_page_lies_nearest() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("behind");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");
    let (before, discarder) = (in_group.charge(), Discarder::new());
    for block in (0..THPS).map(|block| block * PER_BLOCK) {
        discarder
            .discard(region.release(Pages(block + 1), Pages(1)), Deferred)
            .expect("given back");
        mark(&mut region, block + 1);
        discarder.discard(region.release(Pages(block + 2), Pages(500)), Sync).expect("given back");
    }
    let fell = before.saturating_sub(in_group.charge());
    let given_back = THPS * 500 * 4096;
    assert!(fell + SLACK >= given_back, "the charge fell by {fell} of {given_back}");
}

#[test]
fn several_threads_split_each_others_holes_and_none_stay() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("threads");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let regions: Option<Vec<Region>> = (0..4).map(|_| huge(THPS / 2)).collect();
    require!(regions.is_some(), HUGE_PAGES);
    let regions = regions.expect("just looked");
    let beside = in_group.charge() - regions.iter().map(|region| smaps(region, "Rss")).sum::<u64>();
    let discarder = Discarder::new();
    let regions: Vec<Region> = std::thread::scope(|scope| {
        let threads = regions.into_iter().zip(1_u64..).map(|(mut region, seed)| {
            let discarder = &discarder;
            scope.spawn(move || {
                let mut numbers = Numbers::new(seed * 0x9E37_79B9);
                for _ in 0..4000 {
                    let first = numbers.below(THPS / 2 * PER_BLOCK - 64);
                    let released = region.release(Pages(first), Pages(1 + numbers.below(64)));
                    let bound = Bounded(Bytes(2 * MIB));
                    discarder.discard(released, bound).expect("given back");
                    mark(&mut region, first);
                }
                region
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    discarder.split_waiting(Bytes::ZERO).expect("splits");
    let mapped: u64 = regions.iter().map(|region| smaps(region, "Rss")).sum();
    let stuck = in_group.charge().saturating_sub(beside + mapped);
    assert!(stuck <= SLACK, "{stuck} bytes are stuck");
}

#[test]
fn with_a_bound_no_more_than_that_is_ever_stuck() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("bounded");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");

    let bound = 16 * MIB;
    let (discarder, mut numbers) = (Discarder::new(), Numbers::new(88_172_645_463_325_252));
    // What is charged beside what the region maps stays the same.
    let beside = in_group.charge().saturating_sub(smaps(&region, "Rss"));
    let (mut most, mut waited) = (0, 0);
    for sample in 0..400 {
        for _ in 0..8 {
            let (first, count) = (numbers.below(THPS * PER_BLOCK - 64), 1 + numbers.below(64));
            let released = region.release(Pages(first), Pages(count));
            discarder.discard(released, Bounded(Bytes(bound))).expect("given back");
            // Some of it is written again, which cures no hole.
            mark(&mut region, first);
        }
        assert!(discarder.waiting().0 <= bound);
        waited = waited.max(discarder.waiting().0);
        if sample % 10 == 0 {
            let stuck = in_group.charge().saturating_sub(beside + smaps(&region, "Rss"));
            most = most.max(stuck);
        }
    }
    assert!(most <= bound + SLACK, "{most} bytes were stuck");
    assert!(waited > bound / 2, "the bound was never near: {waited}");
    assert!(most > SLACK, "nothing was ever stuck: this shows nothing");
}

/// The most that is stuck before any of a victim's system calls while it gives back a half of each of its
/// huge pages; how many calls it makes.
fn most_stuck(victim: &mut Workload, cgroup: &OwnCgroup, bound: u64) -> (u64, u64) {
    let mapped = |victim: &Workload| kernel::smaps_bytes(victim.pid(), "Rss");
    // Before it came into this cgroup, it was charged elsewhere.
    let (charged, had) = (charge(cgroup), mapped(victim));
    let mut program = Tracee::seize(victim.pid());
    victim.send(&format!("give-back-within {bound}"));
    let mut most = 0;
    let stops = program.run_to(Moment { stops: u64::MAX, steps: 0 }, |call| {
        let fell = had.saturating_sub(mapped(victim));
        most = most.max((charge(cgroup) + fell).saturating_sub(charged));
        call.number == libc::SYS_write && call.arguments[0] == 1
    });
    program.let_go();
    assert_eq!(victim.any_answer(), Ok(String::new()));
    (most, stops)
}

#[test]
fn a_bound_holds_within_a_call_too() {
    const BLOCKS: u64 = 8;
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let cgroup = own_cgroup("within");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    let mut victim = Workload::start_program("recoup-victim");
    cgroup.add(victim.pid()).expect("the victim can be moved");
    for bound in [0, MIB / 2, 3 * MIB] {
        require!(victim.tell(&format!("holed {BLOCKS}")) == "true", HUGE_PAGES);
        let (most, stops) = most_stuck(&mut victim, &cgroup, bound);
        println!("{most} bytes stuck at most at {stops} stops, bound {bound}");
        assert!(stops > 2 * BLOCKS, "{stops}");
        assert!(most <= bound + WITHIN, "{most} bytes were stuck, bound {bound}");
    }
    assert_eq!(victim.tell("check-holed"), "0");
    victim.kill();
}

/// Base pages in the place of holes are given back again, with more of the huge page.
#[test]
fn what_was_written_again_does_not_hide_its_huge_page_from_a_split() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("again");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");
    let discarder = Discarder::new();
    let beside = in_group.charge().saturating_sub(smaps(&region, "Rss"));
    for block in 0..THPS {
        let first = block * PER_BLOCK;
        let half = region.release(Pages(first), Pages(PER_BLOCK / 2));
        discarder.discard(half, Bounded(Bytes(u64::MAX))).expect("given back");
        (first..first + PER_BLOCK / 2).for_each(|page| mark(&mut region, page));
        // Half a mebibyte more than is allowed, and nothing else that could be split.
        let more = region.release(Pages(first), Pages(PER_BLOCK / 4 * 3));
        discarder.discard(more, Bounded(Bytes(MIB))).expect("given back");
    }
    let stuck = in_group.charge().saturating_sub(beside + smaps(&region, "Rss"));
    assert!(stuck <= MIB + SLACK, "{stuck} bytes are stuck");
    assert!(discarder.waiting().0 <= MIB);
}

#[test]
fn a_huge_page_given_back_whole_is_never_split() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");
    let discarder = Discarder::new();
    let before = kernel::vmstat("thp_split_page ");
    for half in 0..2 * THPS {
        let released = region.release(Pages(half * PER_BLOCK / 2), Pages(PER_BLOCK / 2));
        discarder.discard(released, Bounded(BLOCK)).expect("given back");
    }
    discarder.discard(region.release(Pages(0), Pages(THPS * PER_BLOCK)), Sync).expect("given back");
    let splits = kernel::vmstat("thp_split_page ") - before;
    assert!(splits < THPS / 4, "{splits} huge pages were split somewhere on this machine");
    assert_eq!((discarder.waiting(), smaps(&region, "Rss")), (Bytes::ZERO, 0));
}

#[test]
fn a_worker_splits_what_waits_and_the_owner_can_too() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let region = huge(THPS);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");
    let discarder = Arc::new(Discarder::new());
    let unbounded = Bounded(Bytes(u64::MAX));
    for block in 0..THPS {
        let released = region.release(Pages(block * PER_BLOCK), Pages(10));
        discarder.discard(released, unbounded).expect("given back");
    }
    assert_eq!(discarder.waiting(), Pages(10 * THPS).bytes());
    discarder.split_waiting(Pages(10 * THPS / 2).bytes()).expect("splits");
    assert_eq!(discarder.waiting(), Pages(10 * THPS / 2).bytes());

    let worker = Worker::start(Arc::clone(&discarder), Bytes::ZERO).expect("a thread");
    let deadline = Instant::now() + Duration::from_secs(60);
    while discarder.waiting() > Bytes::ZERO {
        assert!(Instant::now() < deadline, "{:?} still wait", discarder.waiting());
        std::thread::sleep(Duration::from_millis(1));
    }
    let another = Worker::start(Arc::clone(&discarder), Bytes::ZERO);
    assert_eq!(another.expect_err("one is enough").kind(), std::io::ErrorKind::AlreadyExists);
    drop(worker);
    assert_eq!(smaps(&region, "AnonHugePages"), 0);
    assert_eq!(smaps(&region, "Rss"), THPS * (PER_BLOCK - 10) * 4096);
}

#[test]
fn shared_memory_is_given_back_for_everybody_at_once() {
    require!(kernel::is_root(), "root");
    // One test at a time moves this process to another cgroup.
    let _one_at_a_time = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("shared");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    let mut region = Region::of(Backing::Shared, Bytes(64 * MIB)).expect("shared memory");
    fill(&mut region);
    let before = in_group.charge();
    let released = region.release(Pages(1), Pages(64 * MIB / 4096 - 2));
    Discarder::new().discard(released, Sync).expect("given back");
    let fell = before - in_group.charge();
    assert!(fell + SLACK >= 64 * MIB, "the charge fell by {fell}");
    assert_eq!((marked(&region, 0), marked(&region, 1)), (1, 0));
}

#[test]
fn whole_hugetlb_pages_go_back_to_their_pool_and_parts_stay() {
    require!(kernel::is_root(), "root");
    let pages = HugePages::reserve(&[(BLOCK, 8)]);
    require!(pages.is_ok(), "eight free hugetlb pages");
    let free = || kernel::hugetlb(BLOCK.0, "free_hugepages").expect("the pool");
    let at_first = free();
    for backing in [Backing::HugeTlbPrivate(BLOCK), Backing::HugeTlbShared(BLOCK)] {
        let mut region = Region::of(backing, Bytes(4 * BLOCK.0)).expect("hugetlb memory");
        fill(&mut region);
        assert_eq!(free(), at_first - 4);
        // The first and the last are covered in part only.
        let released = region.release(Pages(1), Pages(4 * PER_BLOCK - 2));
        Discarder::new().discard(released, Sync).expect("given back");
        assert_eq!(free(), at_first - 2);
        assert_eq!((marked(&region, 1), marked(&region, PER_BLOCK)), (2, 0));
    }
}

#[test]
fn locked_memory_is_an_error_that_says_where_and_loses_nothing() {
    let mut region = Region::new(BLOCK).expect("memory");
    fill(&mut region);
    region.lock(Pages(0), Pages(4)).expect("a few pages may be locked");
    let error = Discarder::new().discard(region.release(Pages(0), Pages(4)), Sync);
    let message = error.expect_err("locked memory cannot be given back").to_string();
    let start = format!("{:x}", region.pages().start.address());
    assert!(message.contains(&start) && message.contains("Invalid argument"), "{message}");
    assert_eq!(marked(&region, 3), 4);
}

#[test]
fn neighbours_keep_their_bytes_while_threads_give_back_and_write() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let discarder = Discarder::new();
    let hammer = |seed: u64| {
        let mut region = Region::new(Bytes(16 * BLOCK.0)).expect("memory");
        let pages = region.pages().length();
        region.advise(Pages(0), pages, OwnAdvice::HugePages).expect("huge pages are allowed");
        let mut expected = vec![0; usize::try_from(pages.0).expect("a count")];
        let mut numbers = Numbers::new(seed);
        for round in 0..30_000_usize {
            let page = numbers.below(pages.0 - 32);
            let count = 1 + numbers.below(32);
            let policy = [Sync, Bounded(Bytes(4 * MIB)), Deferred][round % 3];
            discarder
                .discard(region.release(Pages(page), Pages(count)), policy)
                .expect("given back");
            let of = |page: u64| usize::try_from(page).expect("an index");
            expected[of(page)..of(page + count)].fill(0);
            for written in [page, numbers.below(pages.0)] {
                mark(&mut region, written);
                expected[of(written)] = written + 1;
            }
            let looked_at = numbers.below(pages.0);
            assert_eq!(marked(&region, looked_at), expected[of(looked_at)], "round {round}");
        }
        for page in 0..pages.0 {
            assert_eq!(marked(&region, page), expected[usize::try_from(page).expect("an index")]);
        }
    };
    std::thread::scope(|scope| {
        for seed in [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03, 3] {
            let hammer = &hammer;
            scope.spawn(move || hammer(seed));
        }
    });
}
