//! What giving huge pages' holes back costs, against nothing but asking the kernel.

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use recoup_reclaim::Mode;
use recoup_reclaim::act::{self, Pace, Paces};
use recoup_reclaim::outcome::LeftAlone;
use recoup_reclaim::plan::Action;
use recoup_sys::madvise::{Advice, MAX_RANGES, process_madvise};
use recoup_sys::{Features, PageRange};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, timed};
use recoup_testkit::{Figure, HostSetting, Size, Workload, kernel};

use common::{Subject, make_holes, run};

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    if !kernel::is_root() {
        println!("split: not measured, it needs root");
        return;
    }
    let _thp = HostSetting::huge_pages("madvise");
    let features = Features::probe().expect("the features");
    let bench = Bench { huge_pages: size.pick(1000, 128), rounds: size.pick(11, 1) };
    bench.compare_act();
    bench.compare_run(&features);
}

struct Bench {
    huge_pages: u64,
    rounds: usize,
}

impl Bench {
    /// The acting step alone: it looks at each huge page again right before its split, and paces
    /// its calls.
    fn compare_act(&self) {
        let (mut one, mut other) = (Workload::start(), Workload::start());
        let comparison = Comparison::run(
            self.rounds,
            || self.splits(&mut one, act),
            || self.splits(&mut other, bare_loop),
        );
        let figure = Figure {
            what: &format!("splitting {} holed huge pages", self.huge_pages),
            value: comparison.ratio(),
            target: 1.1,
            unit: "x bare MADV_COLD",
        };
        figure.print(&self.times(&comparison));
    }

    /// All of a run: scan, plan, act, verify, and what the host tells.
    fn compare_run(&self, features: &Features) {
        let (mut one, mut other) = (Workload::start(), Workload::start());
        let whole = |workload: &Workload, _: &[Action]| {
            timed(|| _ = run(workload, features, Mode::Reclaim, 1))
        };
        let comparison = Comparison::run(
            self.rounds,
            || self.splits(&mut one, whole),
            || self.splits(&mut other, bare_loop),
        );
        let ratio = comparison.ratio();
        note("a whole reclaim of the same", &format!("{ratio:.3} x, {}", self.times(&comparison)));
    }

    /// Makes holes, times what is done about them, sees to it that it was done, and returns the
    /// time of a huge page: on a fragmented machine there may be fewer than were asked for.
    fn splits(
        &self,
        workload: &mut Workload,
        split: impl Fn(&Workload, &[Action]) -> Duration,
    ) -> Duration {
        let range = make_holes(workload, self.huge_pages);
        let subject = Subject::open(workload);
        let actions = subject.actions(range);
        let time = split(workload, &actions);
        let left = subject.actions(range).len();
        assert!(left * 10 <= actions.len(), "{left} are left whole");
        time.div_f64(actions.len() as f64)
    }

    fn times(&self, comparison: &Comparison) -> String {
        format!(
            "{:.2} us by {:.2} us a huge page, {} rounds",
            comparison.subject_ms() * 1e3,
            comparison.baseline_ms() * 1e3,
            self.rounds
        )
    }
}

fn act(workload: &Workload, actions: &[Action]) -> Duration {
    let subject = Subject::open(workload);
    let target = act::Target { process: &subject.process, frames: &subject.frames };
    let mut pace = Paces::new(Pace::DEFAULT_LONGEST);
    let mut left_alone = LeftAlone::default();
    timed(|| {
        act::act(&target, actions, &mut pace, &mut left_alone).expect("the workload lives");
    })
}

fn bare_loop(workload: &Workload, actions: &[Action]) -> Duration {
    let subject = Subject::open(workload);
    let ranges: Vec<PageRange> = actions.iter().map(Action::range).collect();
    timed(|| {
        for batch in ranges.chunks(MAX_RANGES) {
            let advised = process_madvise(&subject.process, batch, Advice::Cold);
            assert!(advised.stopped.is_none(), "{advised:?}");
        }
    })
}
