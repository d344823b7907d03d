//! What giving parts of huge pages back costs, against nothing but asking the kernel.

mod cache;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::time::Duration;

use recoup::SplitPolicy::{self, Deferred, Sync};
use recoup::discard::Discarder;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGE, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Pages, own};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, timed};
use recoup_testkit::workload::InOwnCgroup;
use recoup_testkit::{Figure, HostSetting, Size, kernel};

const PER_BLOCK: u64 = PAGES_PER_BLOCK as u64;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    if !kernel::is_root() {
        println!("discard: not measured, it needs root");
        return;
    }
    let _thp = HostSetting::huge_pages("madvise");
    // A gigabyte's huge pages at a time, 10000 in all.
    let bench = Bench { count: size.pick(500, 32), rounds: size.pick(20, 1) };
    bench.whole();
    bench.partial();
    cache::compare_all(size);
}

/// What a processor charges to a cgroup ahead of need, and keeps (`MEMCG_CHARGE_BATCH`).
const STOCK: u64 = 64 * PAGE.0;

struct Bench {
    count: u64,
    rounds: usize,
}

impl Bench {
    /// Each huge page given back as a whole.
    fn whole(&self) {
        let discarder = Discarder::new();
        let run = |policy| {
            let mut region = huge_pages(self.count);
            timed(|| {
                for block in 0..self.count {
                    give_back(&mut region, &discarder, policy, block * PER_BLOCK, PER_BLOCK);
                }
            })
        };
        let comparison = Comparison::run(self.rounds, || run(Sync), || run(Deferred));
        let figure = Figure {
            what: "whole huge pages given back, Sync",
            value: comparison.ratio(),
            target: 1.05,
            unit: "x MADV_DONTNEED",
        };
        figure.print(&self.times(&comparison));
    }

    /// One page of each given back, which takes a split; then the rest of each.
    fn partial(&self) {
        let discarder = Discarder::new();
        let in_group = InOwnCgroup::enter("bench-partial");
        let charge = || in_group.as_ref().map_or(0, InOwnCgroup::charge);
        let stuck = RefCell::new(0);
        let rest = RefCell::new(Vec::new());
        let subject = || {
            let mut region = huge_pages(self.count);
            let before = charge();
            let took = timed(|| {
                for block in 0..self.count {
                    give_back(&mut region, &discarder, Sync, block * PER_BLOCK + 7, 1);
                }
            });
            let came_back = before.saturating_sub(charge());
            let most = (self.count * BLOCK.0 / PER_BLOCK).saturating_sub(came_back);
            stuck.replace_with(|before| (*before).max(most));
            rest.borrow_mut().push(timed(|| {
                for block in 0..self.count {
                    give_back(&mut region, &discarder, Sync, block * PER_BLOCK, PER_BLOCK);
                }
            }));
            took
        };
        let comparison = Comparison::run(self.rounds, subject, || self.bare());
        let figure = Figure {
            what: "one page of each given back, Sync",
            value: comparison.ratio(),
            target: 1.05,
            unit: "x MADV_DONTNEED and MADV_COLD",
        };
        figure.print(&self.times(&comparison));
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
        let (stuck, stock) = (stuck.into_inner(), processors * STOCK);
        let figure = Figure {
            what: "charged though given back, beyond what processors keep in stock",
            value: stuck.saturating_sub(stock) as f64,
            target: 0.0,
            unit: "bytes",
        };
        figure.print(&format!("{stuck} at most, {stock} of them in stock"));
        let rest = rest.into_inner();
        let each = rest.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.all(rest.len());
        note("the rest of each, now base pages", &format!("{each:.1} us each"));
    }

    /// What nobody can do without: a discard and a split.
    fn bare(&self) -> Duration {
        let mut region = huge_pages(self.count);
        let start = region.pages().start;
        timed(|| {
            for block in 0..self.count {
                let page = Pages(block * PER_BLOCK + 7);
                region.release(page, Pages(1)).discard().expect("given back");
                own::age(start + page + Pages(1)).expect("split");
            }
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    fn all(&self, rounds: usize) -> f64 {
        (self.count * rounds as u64) as f64
    }

    fn times(&self, comparison: &Comparison) -> String {
        let each = |ms: f64| ms * 1e3 / self.all(1);
        let (subject, bare) = (each(comparison.subject_ms()), each(comparison.baseline_ms()));
        let all = self.all(self.rounds);
        format!("{subject:.1} against {bare:.1} us each, {all} in all")
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

/// A new mapping of whole huge pages: one that was split has page tables in their way.
fn huge_pages(count: u64) -> Region {
    let mut region = Region::new(Bytes(count * BLOCK.0)).expect("memory");
    let all = region.pages().length();
    region.advise(Pages(0), all, OwnAdvice::HugePages).expect("huge pages");
    region.touch(Pages(0), all);
    region
}
