//! Threads that hammer a pool while others compact, trim, return and audit it: nobody ever sees a byte
//! of somebody else's, no audit says what is not so, and in the end everything is free.
//!
//! `RECOUP_POOL_OPS` says how many steps a thread makes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use recoup::pool::{
    Extent, HugeTlb, Movable, Owner, OwnerOptions, Pool, ReturnSettings, Source, Thp,
};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::units::BLOCK;
use recoup_testkit::numbers::Numbers;
use recoup_testkit::{HugePages, require};

use crate::common::{GIB, all_are, assert_empty, memfd, owner, steps};

/// Memory with a mark in each page, and at the end.
enum Held {
    Still(Extent, u64),
    Movable(Movable, u64),
}

const PAGE: usize = 4096;

fn mark(bytes: &mut [u8], tag: u64) {
    for (page, place) in (tag..).zip(bytes.chunks_exact_mut(PAGE)) {
        place[..8].copy_from_slice(&page.to_ne_bytes());
    }
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&tag.to_ne_bytes());
}

#[track_caller]
fn check(bytes: &[u8], tag: u64) {
    for (page, place) in (tag..).zip(bytes.chunks_exact(PAGE)) {
        assert_eq!(place[..8], page.to_ne_bytes());
    }
    assert_eq!(bytes[bytes.len() - 8..], tag.to_ne_bytes());
}

impl Held {
    fn check(&self) {
        match self {
            Self::Still(extent, tag) => check(extent, *tag),
            Self::Movable(movable, tag) => check(&movable.read(), *tag),
        }
    }
}

/// What an owner may find in memory that it gets: zeroes, or what it wrote itself.
fn check_fresh(bytes: &[u8], owner: u64) {
    for page in bytes.chunks_exact(PAGE) {
        let first = u64::from_ne_bytes(page[..8].try_into().expect("8 bytes"));
        assert!(first == 0 || first >> 48 == owner, "{first:#x} in memory of {owner}");
    }
}

/// One thread of an owner. Errors are part of it: the pool is too small for all.
fn hammer(owner: &Owner, seed: u64, steps: u64) {
    let mut random = Numbers::new(seed);
    let mut held: Vec<Held> = Vec::new();
    let number = u64::from(owner.id().get());
    for step in 0..steps {
        // Room for the number of a page below.
        let tag = number << 48 | seed << 36 | step << 12;
        let got = match random.below(9) {
            0 | 1 => owner.chunk().ok(),
            2 => owner.chunks(Chunks(1 + random.below(5))).ok(),
            3 | 4 => owner.pages(Pages(1 + random.below(40))).ok(),
            5 => {
                if let Ok(movable) = owner.movable(Chunks(1 + random.below(3))) {
                    check_fresh(&movable.read(), number);
                    mark(&mut movable.write(), tag);
                    held.push(Held::Movable(movable, tag));
                }
                None
            }
            _ => {
                if !held.is_empty() {
                    let one = held.swap_remove(random.index(held.len()));
                    one.check();
                    if let (Held::Movable(movable, tag), 0) = (one, random.below(4)) {
                        match movable.pin() {
                            Ok(extent) => held.push(Held::Still(extent, tag)),
                            Err(back) => held.push(Held::Movable(back.movable, tag)),
                        }
                    }
                }
                None
            }
        };
        if let Some(mut extent) = got {
            check_fresh(&extent, number);
            mark(&mut extent, tag);
            held.push(Held::Still(extent, tag));
        }
        if held.len() > 24 {
            held.drain(..16).for_each(|one| one.check());
        }
    }
    held.iter().for_each(Held::check);
}

/// Ends the chores, also after a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn with_threads(source: impl Source + 'static, limit: Bytes) {
    let pool = Pool::new(source, limit);
    let settings =
        ReturnSettings { threshold: 4, deadline: Duration::from_millis(2), per_request: 2 };
    let background = pool.return_in_background(settings).expect("a thread");
    let (done, audits) = (AtomicBool::new(false), AtomicU64::new(0));
    let options = [OwnerOptions::default(), OwnerOptions::default().apart().quota(Bytes(64 << 20))];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(pool.audit().expect("pagemap").violations, []);
                audits.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pool.compact();
                pool.trim();
                let _ = pool.usage();
            }
        });
        let ends = Ends(&done);
        for round in 0..4 {
            // Owners come and go, with their zones.
            std::thread::scope(|scope| {
                for (number, options) in options.into_iter().cycle().take(3).enumerate() {
                    let owner = pool.owner(options).expect("an owner");
                    for thread in 0..2 {
                        let (owner, seed) =
                            (owner.clone(), 1 + round * 100 + number as u64 * 10 + thread);
                        scope.spawn(move || hammer(&owner, seed, steps(600)));
                    }
                }
            });
        }
        drop(ends);
    });
    assert!(audits.load(Ordering::Relaxed) > 0);
    let _ = background.stop();
    assert_empty(&pool);
}

#[test]
fn private_memory() {
    with_threads(Thp::private(), Bytes(4 * GIB));
}

#[test]
fn a_memfd() {
    with_threads(memfd(), Bytes(4 * GIB));
}

/// With too few of them: whoever gets some can use them.
#[test]
fn huge_pages() {
    let guard = HugePages::reserve(&[(BLOCK, 96)]);
    require!(guard.is_ok(), "96 huge pages of 2 MiB");
    let source = recoup::pool::HugeTlb::two_mib().expect("huge pages");
    with_threads(source, Bytes(4 * GIB));
}

/// The pool has room for one owner, who has freed everything. Another one gets it, whatever is done with
/// it at that moment.
fn room_is_found(pool: &Pool, meanwhile: impl Fn(Owner) + Sync) {
    for _ in 0..50 {
        let apart = pool.owner(OwnerOptions::default().apart()).expect("an owner");
        let mut extent = apart.chunks(Chunks(8)).expect("room");
        extent.fill(1);
        drop(extent);
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                meanwhile(apart);
            });
            start.wait();
            let tenant = owner(pool);
            let run = tenant.chunks(Chunks(8)).expect("room");
            assert!(all_are(&run, 0));
        });
        pool.trim();
    }
    assert_empty(pool);
}

#[test]
fn a_gigabyte_that_is_going_back_is_waited_for() {
    let pool = Pool::new(memfd(), Bytes(GIB));
    room_is_found(&pool, |_apart| _ = pool.trim());
    room_is_found(&pool, drop);
    // Small ones beside it are no sign that all is back.
    let at_once = ReturnSettings { threshold: 1, ..ReturnSettings::default() };
    let background = pool.return_in_background(at_once).expect("a thread");
    room_is_found(&pool, |_apart| _ = pool.trim());
    drop(background);
}

#[test]
fn huge_pages_that_are_going_back_are_waited_for() {
    let guard = HugePages::reserve(&[(BLOCK, 8)]);
    require!(guard.is_ok(), "8 huge pages of 2 MiB");
    let pool = Pool::new(HugeTlb::two_mib().expect("huge pages"), Bytes(4 * GIB));
    room_is_found(&pool, |_apart| _ = pool.trim());
    room_is_found(&pool, drop);
}
