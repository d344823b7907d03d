//! Runs recoup's library on a workload.

use std::num::NonZeroUsize;

use recoup_reclaim::act::Pace;
use recoup_reclaim::outcome::ProcessOutcome;
use recoup_reclaim::plan::{Kind, Policy};
use recoup_reclaim::run::{self, RunOutcome, Unobserved};
use recoup_reclaim::scan::Picture;
use recoup_reclaim::scan::lazyfree::Sampling;
use recoup_reclaim::target::Target;
use recoup_reclaim::{Mode, Request};
use recoup_sys::{Bytes, Features};
use recoup_testkit::Workload;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// What the tests ask for unless they say otherwise: everything of some processes.
pub(crate) fn request(pids: Vec<i32>) -> Request {
    Request {
        target: Target::Pids(pids),
        mode: Mode::Reclaim,
        policy: Policy { kinds: Kind::ALL.into(), smallest: Bytes::ZERO },
        jobs: NonZeroUsize::new(2).expect("two"),
        longest_hold: Pace::DEFAULT_LONGEST,
        sampling: Sampling::SPARSE,
        picture: Picture::Skip,
    }
}

pub(crate) fn features() -> Features {
    Features::probe().expect("the features")
}

pub(crate) fn run_request(request: &Request) -> RunOutcome {
    run::run(request, &features(), &Unobserved).expect("the targets")
}

/// Runs on one workload, with changes to the request.
pub(crate) fn run_with(workload: &Workload, change: impl FnOnce(&mut Request)) -> ProcessOutcome {
    let mut request = request(vec![workload.pid()]);
    change(&mut request);
    let mut outcome = run_request(&request);
    assert_eq!(outcome.errors().collect::<Vec<_>>(), Vec::<&str>::new());
    outcome.processes.pop().expect("the workload")
}

pub(crate) fn report(workload: &Workload) -> ProcessOutcome {
    run_with(workload, |request| request.mode = Mode::Report)
}

/// The same as if this were another kernel.
pub(crate) fn report_as_on(workload: &Workload, features: &Features) -> ProcessOutcome {
    let request = Request { mode: Mode::Report, ..request(vec![workload.pid()]) };
    let mut outcome = run::run(&request, features, &Unobserved).expect("the targets");
    assert_eq!(outcome.errors().collect::<Vec<_>>(), Vec::<&str>::new());
    outcome.processes.pop().expect("the workload")
}

pub(crate) fn reclaim(workload: &Workload) -> ProcessOutcome {
    run_with(workload, |_| {})
}

/// A change to a request: this kind only.
pub(crate) fn only(kind: Kind) -> impl FnOnce(&mut Request) {
    move |request| request.policy.kinds = [kind].into()
}
