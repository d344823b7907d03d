//! Caches that evict at random: as a real one did, and as a model of the worst.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use recoup::SplitPolicy::{self, Bounded, Deferred, Sync};
use recoup::discard::Discarder;
use recoup_sys::Bytes;
use recoup_sys::region::Region;
use recoup_testkit::figure::note;
use recoup_testkit::numbers::Numbers;
use recoup_testkit::ratio::Comparison;
use recoup_testkit::{Figure, Size};

use crate::{PER_BLOCK, give_back, huge_pages};

/// What the allocator of a Redis 7.0 (jemalloc 5.3) gave back in 40 s: 1000000 keys, values of 64 bytes
/// to 64 KiB (uniform in their logarithm) written at random, `maxmemory 256mb`, `allkeys-random`, huge
/// pages allowed; 505146 evictions. First page and number of pages, in hexadecimal, as `strace -e
/// madvise` saw them.
const REDIS: &str = include_str!("redis.trace");

pub(crate) fn compare_all(size: Size) {
    let rounds = size.pick(7, 1);
    let redis = Trace::recorded(REDIS);
    // Eight times: what a Redis does within some minutes.
    for (repeat, what) in [(1, "40 s"), (8, "5 min")] {
        let trace = redis.repeated(size.pick(repeat, 1));
        for part in [4, 8, 16] {
            let bound = Bytes(trace.memory().0 / part);
            let comparison = trace.compare(Bounded(bound), rounds);
            let figure = Figure {
                what: &format!(
                    "a Redis evicting at random for {what}, Bounded by 1/{part} of its memory"
                ),
                value: comparison.ratio(),
                target: 1.3,
                unit: "x MADV_DONTNEED",
            };
            figure.print(&times(&comparison));
        }
        let comparison = trace.compare(Sync, rounds);
        note(&format!("the same, Sync: {:.2} x", comparison.ratio()), &times(&comparison));
    }
    for value_kib in [4, 64, 1024] {
        let trace = Trace::emptied(size.pick(256, 16), value_kib / 4);
        let shares = [1, 2, 4, 8].map(|part| {
            let bound = Bytes(trace.memory().0 / part);
            format!("1/{part}: {:.2} x", trace.compare(Bounded(bound), rounds.min(3)).ratio())
        });
        let what = format!("a cache emptied at random, values of {value_kib} KiB, by bound");
        note(&what, &shares.join(", "));
    }
}

fn times(comparison: &Comparison) -> String {
    format!("{:.1} against {:.1} ms", comparison.subject_ms(), comparison.baseline_ms())
}

/// What is given back, in order: first page and number of pages.
struct Trace {
    pages: u64,
    steps: Vec<(u64, u64)>,
}

impl Trace {
    fn recorded(text: &str) -> Self {
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let step = |line: &str| line.split_once(' ').map(|(first, count)| (hex(first), hex(count)));
        let steps: Vec<(u64, u64)> = text.lines().filter_map(step).collect();
        let end = steps.iter().map(|(first, count)| first + count).max().unwrap_or(0);
        Self { pages: end.next_multiple_of(PER_BLOCK), steps }
    }

    fn repeated(&self, times: usize) -> Self {
        Self { pages: self.pages, steps: self.steps.repeat(times) }
    }

    /// Every value once, in random order.
    fn emptied(blocks: u64, value: u64) -> Self {
        let pages = blocks * PER_BLOCK;
        let steps = shuffled(pages / value).into_iter().map(|index| (index * value, value));
        Self { pages, steps: steps.collect() }
    }

    fn memory(&self) -> Bytes {
        recoup_sys::Pages(self.pages).bytes()
    }

    fn compare(&self, policy: SplitPolicy, rounds: usize) -> Comparison {
        let region = RefCell::new(huge_pages(self.pages / PER_BLOCK));
        let run = |policy| {
            let mut region = region.borrow_mut();
            *region = huge_pages(self.pages / PER_BLOCK);
            self.replay(&mut region, policy)
        };
        Comparison::run(rounds, || run(policy), || run(Deferred))
    }

    /// Gives back step by step what was written again meanwhile; only the giving back is timed.
    fn replay(&self, region: &mut Region, policy: SplitPolicy) -> Duration {
        let discarder = Discarder::new();
        let mut took = Duration::ZERO;
        for &(first, count) in &self.steps {
            region.touch(recoup_sys::Pages(first), recoup_sys::Pages(count));
            let began = Instant::now();
            give_back(region, &discarder, policy, first, count);
            took += began.elapsed();
            if let Bounded(bound) = policy {
                assert!(discarder.waiting() <= bound, "the bound holds at every sample");
            }
        }
        took
    }
}

/// The numbers below `count` in an order that looks random and is always the same.
fn shuffled(count: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut random = Numbers::new(0x9E37_79B9_7F4A_7C15);
    for last in (1..numbers.len()).rev() {
        let other = random.index(last + 1);
        numbers.swap(last, other);
    }
    numbers
}
