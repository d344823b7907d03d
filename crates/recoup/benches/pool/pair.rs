//! What it costs to take a chunk and to give it back.

use std::hint::black_box;

use recoup::pool::{Extent, Owner, OwnerOptions, Pool, Thp};
use recoup_sys::Bytes;
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, cpu_time, median};
use recoup_testkit::{Figure, Size};

use super::bystander::Bystander;
use super::others::{self, Block};
use super::threads::by_threads;

/// What one chunk may cost, taken and given back.
const TARGET_NS: f64 = 60.0;
/// How much more two threads do than one.
const TARGET_TWO: f64 = 1.8;
/// How much slower it may be while a thread returns memory.
const TARGET_RETURNING: f64 = 1.02;

const GIB: u64 = 1 << 30;

pub(super) fn print(size: Size) {
    let pool = Pool::new(Thp::private(), Bytes(4 * GIB));
    let pairs = size.pick(2_000_000, 10_000);
    let rounds = size.pick(11, 1);
    let owner = warm_owner(&pool, OwnerOptions::default());
    let one = || owner.chunk().expect("a chunk");
    let ns = median_ns(rounds, pairs, || drop(black_box(one())));
    let made_from = format!("median of {rounds} times {pairs}");
    let what = "allocate and free a backed chunk";
    Figure { what, value: ns, target: TARGET_NS, unit: "ns a pair" }.print(&made_from);

    let many = size.pick(64, 8);
    let ns = in_bulk(rounds, pairs / many, many, &owner);
    note(&format!("the same {many} at a time, by way of the book"), &format!("{ns:.1} ns a pair"));
    print_beside(rounds, pairs);
    print_threads(size, &pool, pairs);
    print_returning(size, &pool, &owner);
}

/// An owner with 100 chunks that are backed and free.
fn warm_owner(pool: &Pool, options: OwnerOptions) -> Owner {
    let owner = pool.owner(options).expect("an owner");
    let mut chunks: Vec<Extent> = (0..100).map(|_| owner.chunk().expect("a chunk")).collect();
    chunks.iter_mut().for_each(|chunk| chunk[0] = 1);
    owner
}

fn median_ns(rounds: usize, pairs: usize, mut pair: impl FnMut()) -> f64 {
    let mut round = || cpu_time(|| (0..pairs).for_each(|_| pair())).as_secs_f64();
    median((0..rounds).map(|_| round() * 1e9 / pairs as f64).collect())
}

/// Many are taken before the first is given back, so that what is kept at hand does not suffice.
fn in_bulk(rounds: usize, times: usize, many: usize, owner: &Owner) -> f64 {
    let mut chunks: Vec<Extent> = Vec::with_capacity(many);
    let bulk = || {
        chunks.extend((0..many).map(|_| owner.chunk().expect("a chunk")));
        chunks.clear();
    };
    median_ns(rounds, times, bulk) / many as f64
}

/// The same with blocks of others.
fn print_beside(rounds: usize, pairs: usize) {
    for other in others::ALL {
        let pairs = pairs / other.slower;
        let ns = median_ns(rounds, pairs, || drop(black_box(Block::new(other.kind, 2 << 20))));
        note(&format!("2 MiB of {}, untouched", other.name), &format!("{ns:.1} ns a pair"));
    }
}

/// How much more several threads do in the same time, each with an owner.
fn print_threads(size: Size, pool: &Pool, pairs: usize) {
    for (options, whose) in [
        (OwnerOptions::default(), "gigabytes of all"),
        (OwnerOptions::default().apart(), "gigabytes of their own"),
    ] {
        for (many, how) in [(1, "one at a time"), (64, "64 at a time")] {
            let times = pairs / 4 / many;
            let time = |threads| by_threads(threads, times, || pairs_of(pool, options, many)).clock;
            let compared = Comparison::run(size.pick(9, 1), || time(2), || time(1));
            // Two threads do twice as much.
            let value = 2.0 / compared.ratio();
            let what = format!("two threads by one, {whose}, {how}");
            if many == 1 {
                let cost =
                    Figure { what: &what, value: 1.0 / value, target: 1.0 / TARGET_TWO, unit: "x" };
                cost.print(&format!("{value:.2} times as much done"));
            } else {
                note(&what, &format!("{value:.2} times as much done"));
            }
        }
    }
}

/// What a thread does with an owner of its own.
fn pairs_of(pool: &Pool, options: OwnerOptions, many: usize) -> impl FnMut() {
    let owner = warm_owner(pool, options);
    let mut chunks: Vec<Extent> = Vec::with_capacity(many);
    move || {
        chunks.extend((0..many).map(|_| owner.chunk().expect("a chunk")));
        black_box(&mut chunks).clear();
    }
}

/// Whether it matters that a thread returns what is free: over several of its looks.
fn print_returning(size: Size, pool: &Pool, owner: &Owner) {
    let pairs = size.pick(150_000_000, 10_000);
    let round = || cpu_time(|| (0..pairs).for_each(|_| drop(black_box(owner.chunk()))));
    let with = || {
        let bystander = Bystander::start(pool);
        let time = round();
        bystander.stop();
        time
    };
    let compared = Comparison::run(size.pick(3, 1), with, round);
    let what = "a pair while a thread returns memory, by one without";
    Figure { what, value: compared.ratio(), target: TARGET_RETURNING, unit: "x" }.print(&format!(
        "{:.0} ms of {:.0}",
        compared.subject_ms(),
        compared.baseline_ms()
    ));
}
