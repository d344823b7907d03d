//! What giving parts of huge pages back costs, against nothing but asking the kernel.

use recoup::SplitPolicy::{self, Bounded, Deferred, Sync};
use recoup::discard::Discarder;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Pages, own};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, timed};
use recoup_testkit::workload::InOwnCgroup;
use recoup_testkit::{Figure, HostSetting, Size, kernel};

const PER_BLOCK: u64 = PAGES_PER_BLOCK as u64;
/// Huge pages that exist at a time: a gigabyte's.
const AT_ONCE: u64 = 500;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    if !kernel::is_root() {
        println!("discard: not measured, it needs root");
        return;
    }
    let _thp = HostSetting::huge_pages("madvise");
    // 500 huge pages at a time, 10000 in all.
    let bench = Bench { huge_pages: size.pick(AT_ONCE, 32), rounds: size.pick(20, 1) };
    if false {
        bench.whole();
        bench.partial();
    }
    let cache = Cache { huge_pages: size.pick(256, 16), rounds: size.pick(5, 1) };
    cache.compare_all();
}

struct Bench {
    huge_pages: u64,
    rounds: usize,
}

impl Bench {
    /// Each huge page given back as a whole.
    fn whole(&self) {
        let mut region = Region::new(Bytes(self.huge_pages * BLOCK.0)).expect("memory");
        let discarder = Discarder::new();
        let comparison = {
            let region = std::cell::RefCell::new(&mut region);
            let each = |policy| {
                let mut region = region.borrow_mut();
                fill(&mut region);
                timed(|| {
                    for block in 0..self.huge_pages {
                        give_back(&mut region, &discarder, policy, block * PER_BLOCK, PER_BLOCK);
                    }
                })
            };
            Comparison::run(self.rounds, || each(Sync), || each(Deferred))
        };
        let figure = Figure {
            what: "whole huge pages given back, Sync",
            value: comparison.ratio(),
            target: 1.05,
            unit: "x MADV_DONTNEED",
        };
        figure.print(&self.times(&comparison));
    }

    /// One page of each given back, which takes a split.
    fn partial(&self) {
        let mut region = Region::new(Bytes(self.huge_pages * BLOCK.0)).expect("memory");
        let discarder = Discarder::new();
        let in_group = InOwnCgroup::enter("bench-partial");
        let mut most_stuck = 0;
        let comparison = {
            let region = std::cell::RefCell::new(&mut region);
            let subject = || {
                let mut region = region.borrow_mut();
                fill(&mut region);
                let before = charge(in_group.as_ref());
                let took = timed(|| {
                    for block in 0..self.huge_pages {
                        give_back(&mut region, &discarder, Sync, block * PER_BLOCK + 7, 1);
                    }
                });
                let freed = before.saturating_sub(charge(in_group.as_ref()));
                most_stuck = most_stuck.max((self.huge_pages * 4096).saturating_sub(freed));
                took
            };
            let bare = || {
                let mut region = region.borrow_mut();
                fill(&mut region);
                let first = region.pages().start;
                timed(|| {
                    for block in 0..self.huge_pages {
                        let page = Pages(block * PER_BLOCK + 7);
                        region.release(page, Pages(1)).discard().expect("given back");
                        own::age(first + page + Pages(1)).expect("split");
                    }
                })
            };
            Comparison::run(self.rounds, subject, bare)
        };
        let figure = Figure {
            what: "one page of each given back, Sync",
            value: comparison.ratio(),
            target: 1.05,
            unit: "x MADV_DONTNEED and MADV_COLD",
        };
        figure.print(&self.times(&comparison));
        let stuck = format!("{most_stuck} bytes, of which each CPU may keep 256 KiB in stock");
        note("charged beyond what is mapped, at most", &stuck);
    }

    fn times(&self, comparison: &Comparison) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let each = |ms: f64| ms * 1e3 / self.huge_pages as f64;
        let (subject, bare) = (each(comparison.subject_ms()), each(comparison.baseline_ms()));
        format!(
            "{subject:.1} against {bare:.1} us each, {} in all",
            self.huge_pages * self.rounds as u64
        )
    }
}

/// A cache whose values are evicted at random.
struct Cache {
    huge_pages: u64,
    rounds: usize,
}

impl Cache {
    fn compare_all(&self) {
        for value_kib in [4,64,256] {
            for (percent_evicted, share) in [(100, 1)] {
                self.compare(value_kib, percent_evicted, share);
            }
        }
    }

    /// Values of one size, a share of them evicted at random; a part of the cache may wait.
    fn compare(&self, value_kib: u64, percent: u64, part: u64) {
        let mut region = Region::new(Bytes(self.huge_pages * BLOCK.0)).expect("memory");
        let value = value_kib / 4;
        let values = self.huge_pages * PER_BLOCK / value;
        let order = shuffled(values);
        let evicted = &order[..usize::try_from(values * percent / 100).expect("a count")];
        let bound = Bytes(self.huge_pages * BLOCK.0 / part);
        let mut most = 0;
        let comparison = {
            let region = std::cell::RefCell::new(&mut region);
            let mut trace = |policy: SplitPolicy| {
                let mut region = region.borrow_mut();
                fill(&mut region);
                let discarder = Discarder::new();
                let took = timed(|| {
                    for &index in evicted {
                        give_back(&mut region, &discarder, policy, index * value, value);
                    }
                });
                most = most.max(discarder.waiting().0);
                took
            };
            let trace = std::cell::RefCell::new(&mut trace);
            Comparison::run(
                self.rounds,
                || (trace.borrow_mut())(Bounded(bound)),
                || (trace.borrow_mut())(Deferred),
            )
        };
        println!(
            "values {value_kib} KiB, {percent} % evicted, bound 1/{part}: ratio {:.2}, {:.1} against {:.1} ms",
            comparison.ratio(),
            comparison.subject_ms(),
            comparison.baseline_ms()
        );
    }
}

fn give_back(
    region: &mut Region,
    discarder: &Discarder,
    policy: SplitPolicy,
    first: u64,
    count: u64,
) {
    let released = region.release(Pages(first), Pages(count));
    discarder.discard(released, policy).expect("given back");
}

/// Makes whole huge pages of a region again.
fn fill(region: &mut Region) {
    let all = region.pages().length();
    region.release(Pages(0), all).discard().expect("given back");
    // Only a new mapping surely has no page tables left in which huge pages find no place.
    *region = Region::new(all.bytes()).expect("memory");
    region.advise(Pages(0), all, OwnAdvice::HugePages).expect("huge pages");
    region.touch(Pages(0), all);
}

fn charge(in_group: Option<&InOwnCgroup>) -> u64 {
    in_group.map_or(0, InOwnCgroup::charge)
}

/// The numbers below `count` in an order that looks random and is always the same.
fn shuffled(count: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for last in (1..numbers.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (last as u64 + 1)).expect("an index");
        numbers.swap(last, other);
    }
    numbers
}
