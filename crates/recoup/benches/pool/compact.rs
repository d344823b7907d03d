//! Compaction of a pool that is half full, at random.

use recoup::pool::{Movable, OwnerOptions, Pool, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_testkit::figure::note;
use recoup_testkit::numbers::Numbers;
use recoup_testkit::ratio::{median, timed};
use recoup_testkit::{Figure, HostSetting, Size, kernel};

/// How much slower than memcpy(3) it may copy.
const TARGET: f64 = 1.0 / 0.7;
const GIB: u64 = 1 << 30;
const CHUNK: usize = 2 << 20;

pub(super) fn print(size: Size) {
    let _huge = HostSetting::huge_pages("madvise");
    let gibs = size.pick(8, 2).min(kernel::available_bytes() / GIB / 2).max(2);
    let ratios = (0..size.pick(5, 1)).map(|round| one(gibs, round)).collect();
    let what = format!("compaction of {gibs} GiB half full at random, time by memcpy's");
    let value: f64 = median(ratios);
    let made_from = format!("{:.2} times memcpy's rate", 1.0 / value);
    Figure { what: &what, value, target: TARGET, unit: "x" }.print(&made_from);
}

/// One compaction's time by that of copying as much.
fn one(gibs: u64, round: u64) -> f64 {
    let pool = Pool::new(Thp::private(), Bytes(gibs * GIB));
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    let all = gibs * 512;
    let mut extents: Vec<Option<Movable>> =
        (0..all).map(|_| Some(owner.movable(Chunks(1)).expect("a chunk"))).collect();
    extents.iter().flatten().for_each(|extent| extent.write().fill(1));
    let mut random = Numbers::new(round * 7919 + 1);
    let mut left = all;
    while left > all / 2 {
        let at = usize::try_from(random.below(all)).expect("few chunks");
        left -= u64::from(extents[at].take().is_some());
    }
    let mut done = None;
    let time = timed(|| done = Some(pool.compact())).as_secs_f64();
    let done = done.expect("a compaction");
    let possible = gibs / 2;
    let text =
        format!("{} of {possible} possible; {} MiB moved", done.returned, done.moved.0 >> 20);
    note("gigabytes returned", &text);
    assert_eq!(done.returned, possible, "half of the memory is free, and nobody uses the rest");
    time / copying(&extents, done.moved)
}

/// How long it takes to copy as much between chunks that stay.
fn copying(extents: &[Option<Movable>], amount: Bytes) -> f64 {
    let chunks = usize::try_from(amount.0).expect("fits").div_ceil(CHUNK);
    let there: Vec<&Movable> = extents.iter().flatten().collect();
    let (from, to) = there.split_at(there.len() / 2);
    let pairs = from.iter().zip(to).cycle().take(chunks);
    timed(|| pairs.for_each(|(from, to)| to.write().copy_from_slice(&from.read()))).as_secs_f64()
}
