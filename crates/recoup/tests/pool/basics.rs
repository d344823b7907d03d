use recoup::pool::{Error, OwnerOptions, Pool, ReturnSettings, Thp, Violation};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_testkit::kernel::{own_pid, smaps_bytes_in};

use crate::common::{CHUNK, GIB, owner};

fn resident(extent: &[u8]) -> u64 {
    let start = extent.as_ptr().addr() as u64;
    smaps_bytes_in(own_pid(), start..start + extent.len() as u64, "Rss")
}

#[test]
fn an_owner_gets_its_own_bytes_back_and_another_zeroes() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let [first, second] = [(), ()].map(|()| pool.owner(OwnerOptions::default()).expect("owner"));
    let mut extent = first.chunk().expect("a chunk");
    assert!(extent.iter().all(|&byte| byte == 0));
    extent.fill(7);
    let place = extent.as_ptr();
    drop(extent);
    let extent = first.chunk().expect("a chunk");
    assert_eq!(extent.as_ptr(), place);
    assert!(extent.iter().all(|&byte| byte == 7));
    drop(extent);
    drop(first);
    let extent = second.chunk().expect("a chunk");
    assert_eq!(extent.as_ptr(), place, "the warm chunk goes first");
    assert!(extent.iter().all(|&byte| byte == 0));
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn what_is_freed_goes_back_by_a_trim() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let mut extents: Vec<_> = (0..40).map(|_| owner.chunk().expect("a chunk")).collect();
    extents.iter_mut().for_each(|extent| extent.fill(1));
    let last = extents.pop().expect("40 extents");
    drop(extents);
    assert_eq!(owner.used(), Bytes(CHUNK));
    let returned = pool.trim();
    assert_eq!((returned.bytes, returned.failed), (Bytes(39 * CHUNK), 0));
    let start = last.as_ptr().addr().get() as u64;
    let around = start / GIB * GIB..start / GIB * GIB + GIB;
    assert_eq!(smaps_bytes_in(own_pid(), around, "Rss"), CHUNK);
    drop(last);
    let returned = pool.trim();
    assert_eq!((returned.bytes, returned.gigabytes), (Bytes(CHUNK), 1));
    assert_eq!(pool.usage().attached, Bytes(0));
}

#[test]
fn a_quota_and_a_full_pool_refuse_and_lose_nothing() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default().quota(Bytes(3 * CHUNK))).expect("owner");
    let extents: Vec<_> = (0..3).map(|_| owner.chunk().expect("a chunk")).collect();
    assert!(matches!(owner.chunk(), Err(Error::Quota(_))));
    drop(extents);
    assert!(owner.chunks(Chunks(3)).is_ok());
    let greedy = pool.owner(OwnerOptions::default()).expect("owner");
    let all: Vec<_> = std::iter::from_fn(|| greedy.chunk().ok()).collect();
    assert_eq!(all.len(), 512);
    let error = greedy.chunk().expect_err("the pool is full").to_string();
    assert!(error.contains("no room for 2 MiB") && error.contains("1 GiB"), "{error}");
    drop(all);
    assert!(owner.chunk().is_ok());
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn pages_share_chunks() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let mut pages: Vec<_> = (0..700).map(|_| owner.pages(Pages(1)).expect("a page")).collect();
    for (number, page) in (0_u8..=255).cycle().zip(&mut pages) {
        page.fill(number);
    }
    assert_eq!(owner.used(), Bytes(2 * CHUNK));
    for (number, page) in (0_u8..=255).cycle().zip(&pages) {
        assert!(page.iter().all(|&byte| byte == number));
    }
    drop(pages);
    assert_eq!(owner.used(), Bytes(0));
    assert!(matches!(owner.pages(Pages(513)), Err(Error::Length { .. })));
    assert!(matches!(owner.pages(Pages(0)), Err(Error::Length { .. })));
}

#[test]
fn pages_in_a_row_are_found_beside_many_chunks_that_have_none() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    // Twelve chunks of which every second page is free: 256 each, but no two in a row.
    let mut pages: Vec<_> = (0..12 * 512).map(|_| owner.pages(Pages(1)).ok()).collect();
    pages.iter_mut().step_by(2).for_each(|page| *page = None);
    let row = owner.pages(Pages(40)).expect("another chunk");
    assert_eq!(owner.used(), Bytes(13 * CHUNK));
    drop((pages, row));
    assert_eq!(owner.used(), Bytes(0));
}

/// More extents of the kinds that cost something each cost more.
#[test]
fn books_are_counted_as_they_grow() {
    let pool = Pool::new(Thp::private(), Bytes(4 * GIB));
    let tenant = owner(&pool);
    drop((tenant.movable(Chunks(1)), tenant.pages(Pages(1))));
    let books = || pool.usage().bookkeeping.0;
    let before = books();
    let movables: Vec<_> = (0..100).map(|_| tenant.movable(Chunks(1)).expect("room")).collect();
    let with_movables = books();
    assert!((100 * 50..100 * 500).contains(&(with_movables - before)), "{before} {with_movables}");
    let pages: Vec<_> = (0..100).map(|_| tenant.pages(Pages(257)).expect("room")).collect();
    assert!((100 * 50..100 * 500).contains(&(books() - with_movables)), "{}", books());
    drop((movables, pages));
    assert_eq!(books(), before);
}

#[test]
fn compaction_empties_gigabytes_and_keeps_every_byte() {
    let pool = Pool::new(Thp::private(), Bytes(4 * GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    // Most of two gigabytes, never touched, leaves room for 32 chunks in each.
    let _large = [(), ()].map(|()| owner.movable(Chunks(480)).expect("room"));
    let mut extents: Vec<_> =
        (0..96).map(|_| Some(owner.movable(Chunks(1)).expect("a chunk"))).collect();
    for (number, extent) in (0_u64..).zip(extents.iter().flatten()) {
        extent.write()[..8].copy_from_slice(&number.to_ne_bytes());
    }
    assert_eq!(pool.usage().attached, Bytes(3 * GIB));
    // Every other one: what is left of those in the third gigabyte fits into the first two.
    extents.iter_mut().step_by(2).for_each(|extent| *extent = None);
    let done = pool.compact();
    assert_eq!((done.returned, done.passed_over), (1, 0));
    assert_eq!(done.moved, Bytes(16 * CHUNK));
    for (number, extent) in (0_u64..).zip(&extents) {
        if let Some(extent) = extent {
            assert_eq!(extent.read()[..8], number.to_ne_bytes());
        }
    }
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    assert_eq!(pool.usage().attached, Bytes(2 * GIB));
}

#[test]
fn a_pinned_extent_keeps_its_bytes_and_its_place() {
    let pool = Pool::new(Thp::private(), Bytes(2 * GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let movable = owner.movable(Chunks(2)).expect("chunks");
    movable.write().fill(9);
    let pinned = movable.pin().expect("room");
    let place = pinned.as_ptr();
    pool.compact();
    assert_eq!(pinned.as_ptr(), place);
    assert!(pinned.len() == 4 << 20 && pinned.iter().all(|&byte| byte == 9));
    assert_eq!(owner.used(), Bytes(2 * CHUNK));
}

#[test]
fn an_audit_finds_memory_that_nobody_was_given() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let mut extent = owner.chunk().expect("a chunk");
    extent.fill(1);
    drop(extent);
    pool.trim();
    let keeps_it_attached = owner.chunks(Chunks(256)).expect("room");
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    // Whoever kept the address writes after the free.
    let beyond = keeps_it_attached.as_ptr().as_ptr().wrapping_add(keeps_it_attached.len());
    // SAFETY: mapped as part of the attached gigabyte; nobody has it.
    unsafe { beyond.write_volatile(1) };
    let violations = pool.audit().expect("pagemap").violations;
    assert!(matches!(violations[..], [Violation::Stray(_)]), "{violations:?}");
}

#[test]
fn a_thread_returns_what_is_freed() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let settings = ReturnSettings {
        threshold: 4,
        deadline: std::time::Duration::from_millis(20),
        ..ReturnSettings::default()
    };
    let background = pool.return_in_background(settings).expect("a thread");
    assert!(pool.return_in_background(settings).is_err());
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let mut extents: Vec<_> = (0..40).map(|_| owner.chunk().expect("a chunk")).collect();
    extents.iter_mut().for_each(|extent| extent.fill(1));
    let keep = extents.remove(0);
    let start = keep.as_ptr().addr().get() as u64 / GIB * GIB;
    drop(extents);
    while smaps_bytes_in(own_pid(), start..start + GIB, "Rss") > CHUNK {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(resident(&keep), CHUNK);
    assert_eq!(background.stop().bytes, Bytes(39 * CHUNK));
    assert!(pool.return_in_background(settings).is_ok());
}

#[test]
fn a_thread_may_have_all_the_time_in_the_world() {
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let settings =
        ReturnSettings { threshold: 1, deadline: std::time::Duration::MAX, per_request: 1 };
    let background = pool.return_in_background(settings).expect("a thread");
    let owner = pool.owner(OwnerOptions::default()).expect("owner");
    let kept = owner.chunk().expect("a chunk");
    // At hand, so that the thread sleeps with a deadline.
    drop(owner.chunk().expect("a chunk"));
    for _ in 0..3 {
        drop(owner.chunks(Chunks(2)).expect("chunks"));
        // The thread that does not panic gets there.
        while pool.usage().warm > Bytes(0) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert_eq!(background.stop().bytes, Bytes(6 * CHUNK));
    drop(kept);
}
