//! One file a subcommand. Each gathers what to show and has it shown.

pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod documents;
pub(crate) mod pool;
pub(crate) mod reclaim;
pub(crate) mod report;
pub(crate) mod schema;

use std::num::NonZeroUsize;

use recoup_reclaim::run::RunOutcome;
use recoup_reclaim::scan::lazyfree::Sampling;
use recoup_reclaim::target::Target;

use crate::args::{ScanArgs, TargetArgs};

/// Whether all that was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    All,
    NotAll,
}

impl Done {
    fn of(outcome: &RunOutcome) -> Self {
        if outcome.errors().next().is_none() { Self::All } else { Self::NotAll }
    }
}

impl TargetArgs {
    /// The target, if one was named.
    fn target(self) -> Option<Target> {
        if let Some(path) = self.cgroup {
            Some(Target::Cgroup(path))
        } else if self.all {
            Some(Target::All)
        } else {
            (!self.pid.is_empty()).then_some(Target::Pids(self.pid))
        }
    }
}

impl ScanArgs {
    fn sampling(&self) -> Sampling {
        if self.exact { Sampling::EXACT } else { Sampling::SPARSE }
    }

    fn jobs(&self) -> NonZeroUsize {
        let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.jobs.unwrap_or(cpus)
    }
}
