//! A second thread behind a fence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recoup::discard::TableReclaim;
use recoup::tables::{Keeper, Limits, Settled};
use recoup_sys::pagemap::Run;
use recoup_sys::userfault::{Against, Second, Userfault};
use recoup_sys::{Bytes, Errno, PageRange, Pages};
use recoup_testkit::require;

use crate::arena::{
    DISCARDS, Part, alone, discards, features, region, settled, tables, tables_below,
};
use crate::own::child;

const BLOCKS: u64 = 64;
/// Where memory is mapped anew, nothing is shared.
const BY: TableReclaim = TableReclaim::Discard;

fn half(pages: PageRange) -> PageRange {
    PageRange { start: pages.start + Pages(pages.length().0 / 2), ..pages }
}

#[test]
fn what_it_frees_is_in_its_part_and_empty() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let region = region(BLOCKS);
    let (part, settled) = (Part::of(&region, 0, 1), settled(region.pages()));
    let blocks = usize::try_from(BLOCKS).unwrap();
    (0..blocks).for_each(|block| part.write(block * 512, 7));
    (0..blocks).filter(|block| block % 4 > 0).for_each(|block| part.discard(block * 512));
    let full = tables();
    let (mut fault, second) = (Userfault::open().unwrap(), Arc::new(Second::open().unwrap()));
    let mut fence = fault.fence(&settled, region.pages(), Against::Additions, BY).unwrap();
    let theirs = half(region.pages());
    let mut shared = fence.share(&second, theirs).unwrap();
    let freed = std::thread::scope(|scope| {
        let mut runs = [Run::default(); 64];
        scope.spawn(move || shared.free_empty(theirs, &mut runs)).join().unwrap()
    });
    assert_eq!(freed, Ok(theirs.end));
    // Three of four in half of the region, but for those that the thread itself needed.
    let least = (3 * BLOCKS / 8 - 4) * 4096;
    assert!(tables_below(full - least) < full - least, "of {full}");
    // And no others.
    assert!(tables() > full - (3 * BLOCKS / 8 + 4) * 4096, "of {full}");
    drop(fence);
    (0..blocks).for_each(|block| {
        assert_eq!(part.read(block * 512), if block % 4 == 0 { 7 } else { 0 });
    });
}

#[test]
fn a_fence_stays_up_until_it_is_done() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let region = region(BLOCKS);
    let (part, settled) = (Part::of(&region, 0, 1), settled(region.pages()));
    let (mut fault, second) = (Userfault::open().unwrap(), Arc::new(Second::open().unwrap()));
    let (touched, lifted) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut fence = fault.fence(&settled, region.pages(), Against::Additions, BY).unwrap();
        let shared = fence.share(&second, half(region.pages())).unwrap();
        scope.spawn(|| {
            part.write(0, 7);
            touched.store(true, Ordering::Relaxed);
        });
        let (lifted, touched) = (&lifted, &touched);
        scope.spawn(move || {
            drop(fence);
            lifted.store(true, Ordering::Relaxed);
        });
        std::thread::sleep(Duration::from_millis(100));
        let early = lifted.load(Ordering::Relaxed) || touched.load(Ordering::Relaxed);
        drop(shared);
        assert!(!early, "the fence came down while its second was at work");
    });
    assert!(touched.into_inner() && lifted.into_inner());
    assert_eq!(part.read(0), 7);
}

#[test]
fn a_fence_that_was_forgotten_stays_up_until_it_is_done() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let region = region(BLOCKS);
    let settled = settled(region.pages());
    let (mut fault, second) = (Userfault::open().unwrap(), Arc::new(Second::open().unwrap()));
    let mut fence = fault.fence(&settled, region.pages(), Against::Additions, BY).unwrap();
    let shared = fence.share(&second, half(region.pages())).unwrap();
    std::mem::forget(fence);
    // Another one would let go of all.
    let refused = fault.fence(&settled, region.pages(), Against::Additions, BY).err();
    assert_eq!(refused, Some(Errno::BUSY));
    drop(shared);
    assert!(fault.fence(&settled, region.pages(), Against::Additions, BY).is_ok());
    Part::of(&region, 0, 1).write(0, 7);
}

#[test]
fn there_is_one_at_a_time_and_only_for_what_is_fenced() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let region = region(BLOCKS);
    let settled = settled(region.pages());
    let (first, theirs) =
        (PageRange { end: half(region.pages()).start, ..region.pages() }, half(region.pages()));
    let (mut fault, second) = (Userfault::open().unwrap(), Arc::new(Second::open().unwrap()));
    let mut runs = [Run::default(); 8];

    let mut fence = fault.fence(&settled, theirs, Against::Additions, BY).unwrap();
    assert_eq!(fence.share(&second, region.pages()).err(), Some(Errno::INVAL));
    assert!(child(|| fence.share(&second, theirs).err() == Some(Errno::BADF)));
    let mut shared = fence.share(&second, theirs).unwrap();
    // What is another's is not shared again, nor freed by whoever shared it.
    assert_eq!(fence.share(&second, theirs).err(), Some(Errno::INVAL));
    assert_eq!(fence.free_empty(theirs, &mut runs), Err(Errno::INVAL));
    assert_eq!(shared.free_empty(first, &mut runs), Err(Errno::INVAL));
    assert!(child(|| shared.free_empty(theirs, &mut runs) == Err(Errno::BADF)));
    assert_eq!(shared.free_empty(theirs, &mut runs), Ok(theirs.end));
    assert_eq!(shared.free_empty(theirs, &mut runs), Err(Errno::INVAL));
    drop(shared);
    drop(fence);

    let mut fence = fault.fence(&settled, region.pages(), Against::Additions, BY).unwrap();
    let shared = fence.share(&second, theirs).unwrap();
    let another = Arc::new(Second::open().unwrap());
    assert_eq!(fence.share(&second, first).err(), Some(Errno::BUSY));
    assert_eq!(fence.share(&another, first).err(), Some(Errno::BUSY));
    drop(shared);
    drop(fence);

    let ways = [(Against::AdditionsAndWrites, BY), (Against::Additions, TableReclaim::Remap)];
    for (against, by) in ways {
        let mut fence = fault.fence(&settled, theirs, against, by).unwrap();
        assert_eq!(fence.share(&second, theirs).err(), Some(Errno::INVAL));
    }
    // What was refused is not held against it.
    let mut fence = fault.fence(&settled, theirs, Against::Additions, BY).unwrap();
    assert!(fence.share(&second, theirs).is_ok());
}

#[test]
fn a_keeper_of_everything_and_its_mate_do_not_wait_for_themselves() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let features = features();
    // Enough for a mate's help.
    const BLOCKS: usize = 4096;
    let region = region(BLOCKS as u64);
    let part = Part::of(&region, 0, 1);
    let ended = child(|| {
        // SAFETY: this child maps nothing but the stacks of the keeper's two threads, before they begin.
        let everywhere = unsafe { Settled::everywhere() };
        let max_pause = Limits::DEFAULT_MAX_PAUSE;
        let limits = Limits { soft: Bytes(1 << 20), hard: Bytes(2 << 20), max_pause };
        let Ok(keeper) = Keeper::start(everywhere, limits, &features) else { return false };
        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < Duration::from_secs(2) || rounds < 2 {
            (0..BLOCKS).for_each(|block| {
                part.write(block * 512, 1);
                part.discard(block * 512);
            });
            rounds += 1;
        }
        keeper.outcome().freed > Bytes(1 << 20)
    });
    assert!(ended);
}
