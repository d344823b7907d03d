//! Limits that a keeper holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use recoup::discard::{TableReclaim, table_reclaim};
use recoup::tables::{Keeper, Limits};
use recoup_sys::{Bytes, Features};
use recoup_testkit::require;

use crate::arena::{
    Ending, FENCES, Part, alone, both_ways, features, fences, real_time, region, settled, tables,
};

const HARD: u64 = 32 << 20;

/// Touches and discards a page in every 2 MiB, over and over.
fn nothing_but_tables(part: Part, ended: &AtomicBool, lost: &AtomicU64) -> u64 {
    let mut touched = 0;
    while !ended.load(Ordering::Relaxed) {
        let page = usize::try_from(touched).unwrap() * 512 % part.pages;
        part.write(page, touched + 1);
        if part.read(page) != touched + 1 {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        part.discard(page);
        touched += 1;
    }
    touched
}

#[test]
fn a_workload_that_is_nothing_but_tables_stays_within_its_hard_limit() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    require!(real_time(), "real-time priority (CAP_SYS_NICE), without which no limit is hard");
    for features in both_ways() {
        stays_within_its_hard_limit(&features);
    }
}

fn stays_within_its_hard_limit(features: &Features) {
    let region = region(512 << 10);
    let limits =
        Limits { soft: Bytes(HARD / 2), hard: Bytes(HARD), max_pause: Limits::DEFAULT_MAX_PAUSE };
    let keeper = Keeper::start(settled(region.pages()), limits, features).unwrap();
    let (ended, lost) = (AtomicBool::new(false), AtomicU64::new(0));
    let (most, samples, touched) = std::thread::scope(|scope| {
        let ending = Ending(&ended);
        let threads = [0, 1].map(|index| {
            let (part, ended, lost) = (Part::of(&region, index, 2), &ended, &lost);
            scope.spawn(move || nothing_but_tables(part, ended, lost))
        });
        let (began, mut most, mut samples) = (Instant::now(), 0, 0_u64);
        while began.elapsed() < Duration::from_secs(4) {
            most = most.max(tables());
            samples += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        drop(ending);
        (most, samples, threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>())
    });
    println!(
        "most {most} of {HARD} in {samples} samples, {touched} touched: {:?}",
        keeper.outcome()
    );
    assert_eq!(lost.into_inner(), 0);
    // An emulated guest is too slow to get near the limit in this time.
    assert!(touched > 500, "{touched} tables were touched");
    match table_reclaim(features) {
        TableReclaim::Discard => {
            assert!(most <= HARD, "{most} in {samples} samples: {:?}", keeper.outcome());
        }
        // Who maps anew waits for the mmap lock, while others add tables: no limit is hard then.
        TableReclaim::Remap => assert!(keeper.outcome().freed > Bytes::ZERO),
    }
}

#[test]
fn tables_that_are_needed_are_not_fenced_for_ever() {
    const BLOCKS: usize = 8192;
    const TIME: Duration = Duration::from_secs(3);
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(BLOCKS as u64);
    let part = Part::of(&region, 0, 1);
    (0..BLOCKS).for_each(|block| part.write(block * 512, 1));
    let needed = tables();
    let limits = Limits {
        soft: Bytes(needed / 4),
        hard: Bytes(needed / 2),
        max_pause: Limits::DEFAULT_MAX_PAUSE,
    };
    let keeper = Keeper::start(settled(region.pages()), limits, &features()).unwrap();
    std::thread::sleep(TIME);
    let seen = keeper.outcome();
    drop(keeper);
    // A sweep takes some ten fences; without rests there are more than a thousand.
    assert!((1..300).contains(&seen.pauses.count()), "{seen:?}");
    assert!(seen.pauses.total < TIME / 5, "{seen:?}");
    (0..BLOCKS).for_each(|block| assert_eq!(part.read(block * 512), 1));
}
