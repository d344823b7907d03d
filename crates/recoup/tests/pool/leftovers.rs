//! What somebody leaves behind: bytes for the next owner, memory that waits for nobody, chunks without
//! memory behind them.

use std::time::Duration;

use recoup::pool::{Error, HugeTlb, Pool, ReturnSettings, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_sys::own::Backing;
use recoup_sys::region::Region;
use recoup_sys::units::BLOCK;
use recoup_testkit::{HugePages, kernel, require};

use crate::common::{
    CHUNK, GIB, all_are, assert_clean, file_at, file_takes, gigabyte_around, in_memory, memfd,
    owner, shared,
};

/// A gigabyte that goes back to a memfd loses its memory, and so its bytes.
#[test]
fn a_gigabyte_that_was_shared_comes_back_empty() {
    comes_back_empty(&Pool::new(memfd(), Bytes(GIB)));
}

#[test]
fn a_gigabyte_of_shared_huge_pages_comes_back_empty() {
    let guard = HugePages::reserve(&[(BLOCK, 16)]);
    require!(guard.is_ok(), "16 huge pages of 2 MiB");
    let source = shared(HugeTlb::two_mib().expect("huge pages"));
    comes_back_empty(&Pool::new(source, Bytes(GIB)));
}

fn comes_back_empty(pool: &Pool) {
    let first = owner(pool);
    let mut extents: Vec<_> = (0..8).map(|_| first.chunk().expect("a chunk")).collect();
    extents.iter_mut().for_each(|extent| extent.fill(7));
    let file = file_at(&extents[0]);
    assert_eq!(file_takes(&file), 8 * CHUNK);
    drop(extents);
    // Gives back what is unused as a whole, without a look at its chunks.
    assert_eq!(pool.compact().returned, 1);
    assert_eq!(file_takes(&file), 0);
    let second = owner(pool);
    let extents: Vec<_> = (0..8).map(|_| second.chunk().expect("a chunk")).collect();
    assert!(extents.iter().all(|extent| all_are(extent, 0)), "what the first owner wrote");
}

#[test]
fn a_pool_ends_whose_thread_was_stopped() {
    let pool = Pool::new(memfd(), Bytes(GIB));
    let tenant = owner(&pool);
    let mut extent = tenant.chunk().expect("a chunk");
    extent.fill(7);
    let file = file_at(&extent);
    let thread = pool.return_in_background(ReturnSettings::default()).expect("a thread");
    let _ = thread.stop();
    assert_eq!(file_takes(&file), CHUNK);
    drop((extent, tenant, pool));
    assert_eq!(file_takes(&file), 0, "closed");
}

/// Chunks that were taken in advance and never used are still somebody's leftovers.
#[test]
fn what_was_taken_in_advance_goes_back_too() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let [first, second] = [owner(&pool), owner(&pool)];
    let mut extents: Vec<_> = (0..8).map(|_| first.chunk().expect("a chunk")).collect();
    extents.iter_mut().for_each(|extent| extent.fill(7));
    drop(extents);
    drop(first);
    // Takes the others too, before the thread looks for them.
    let kept = second.chunk().expect("a chunk");
    let eager = ReturnSettings { threshold: 1, ..ReturnSettings::default() };
    let _ = pool.return_in_background(eager).expect("a thread").stop();
    pool.trim();
    assert_eq!(in_memory(gigabyte_around(&kept)), CHUNK);
    assert_clean(&pool);
}

/// What a compaction frees wakes the thread, even if it sleeps until something is freed.
#[test]
fn what_a_compaction_leaves_goes_back() {
    let pool = Pool::new(Thp::private(), Bytes(2 * GIB));
    let owner = owner(&pool);
    let mut extents: Vec<_> =
        (0..600).map(|_| Some(owner.movable(Chunks(1)).expect("a chunk"))).collect();
    let written = extents.iter().flatten().map(|extent| extent.write()[0] = 1).count();
    assert_eq!(written, 600);
    // The first gigabyte is full of holes, the second one sparse, with one extent that stays.
    extents.iter_mut().take(512).step_by(2).for_each(|extent| *extent = None);
    let eager =
        ReturnSettings { threshold: 1, deadline: Duration::from_millis(20), per_request: 1 };
    let background = pool.return_in_background(eager).expect("a thread");
    let last = extents.last().and_then(Option::as_ref).expect("an extent");
    let stays = last.read();
    let addresses = gigabyte_around(&stays);
    pool.trim();
    while in_memory(addresses.clone()) > 88 * CHUNK {
        std::thread::sleep(Duration::from_millis(5));
    }
    // All is quiet, and the thread sleeps for long.
    std::thread::sleep(Duration::from_millis(100));
    let done = pool.compact();
    assert_eq!((done.moved, done.passed_over), (Bytes(87 * CHUNK), 1));
    while in_memory(addresses.clone()) > CHUNK {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stays);
    drop(background);
}

/// A compaction that finds no memory for a copy leaves no place that counts as backed and is not.
#[test]
fn a_compaction_that_gets_no_memory_promises_none() {
    let guard = HugePages::reserve(&[(BLOCK, 519)]);
    require!(guard.is_ok(), "519 huge pages of 2 MiB");
    let pool = Pool::new(HugeTlb::two_mib().expect("huge pages"), Bytes(2 * GIB));
    let owner = owner(&pool);
    let mut extents: Vec<_> =
        (0..516).map(|_| Some(owner.movable(Chunks(1)).expect("a chunk"))).collect();
    // 8 holes in the first gigabyte, behind which nothing stands any more.
    extents.iter_mut().take(8).for_each(|extent| *extent = None);
    pool.trim();
    // Whoever else takes all that is left.
    let free = || kernel::hugetlb(BLOCK.0, "free_hugepages").expect("a pool");
    let taken =
        Region::of(Backing::HugeTlbPrivate(BLOCK), Bytes(free() * CHUNK)).expect("all free ones");
    let done = pool.compact();
    assert_eq!((done.moved, done.passed_over), (Bytes(0), 4), "{done:?}");
    assert!(matches!(owner.movable(Chunks(1)), Err(Error::Source { .. })));
    drop(taken);
    let again: Vec<_> = (0..8).map(|_| owner.movable(Chunks(1)).expect("a chunk")).collect();
    again.iter().for_each(|extent| extent.write().fill(1));
    assert_clean(&pool);
}
