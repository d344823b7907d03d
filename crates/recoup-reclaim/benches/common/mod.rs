//! Runs recoup's library, and its single steps, on a workload.

use std::num::NonZeroUsize;
use std::ops::Range;

use recoup_reclaim::act::Pace;
use recoup_reclaim::plan::{Action, Kind, Plan, Policy};
use recoup_reclaim::run::{self, RunOutcome, Unobserved};
use recoup_reclaim::scan::holes::MapCounts;
use recoup_reclaim::scan::lazyfree::Sampling;
use recoup_reclaim::scan::walk::{KernelWords, Walk};
use recoup_reclaim::scan::{Picture, Scan, Settings};
use recoup_reclaim::target::Target;
use recoup_reclaim::{Mode, Request};
use recoup_sys::kpage::KernelFrames;
use recoup_sys::pagemap::Pagemap;
use recoup_sys::{Bytes, Features, PageIdx, PageRange, Process};
use recoup_testkit::Workload;

/// Pages of a huge page.
pub(crate) const BLOCK: u64 = 512;

fn policy() -> Policy {
    Policy { kinds: Kind::ALL.into(), smallest: Bytes::ZERO }
}

/// A whole run over a workload, as the command line makes it unless told otherwise.
pub(crate) fn run(workload: &Workload, features: &Features, mode: Mode, jobs: usize) -> RunOutcome {
    let request = Request {
        target: Target::Pids(vec![workload.pid()]),
        mode,
        policy: policy(),
        jobs: NonZeroUsize::new(jobs).expect("at least one job"),
        longest_hold: Pace::DEFAULT_LONGEST,
        sampling: Sampling::SPARSE,
        picture: Picture::Skip,
    };
    let outcome = run::run(&request, features, &Unobserved).expect("the workload");
    assert_eq!(outcome.errors().collect::<Vec<_>>(), Vec::<&str>::new());
    outcome
}

/// Addresses as pages.
pub(crate) fn pages(addresses: &Range<u64>) -> PageRange {
    PageRange {
        start: PageIdx::containing(addresses.start),
        end: PageIdx::containing(addresses.end),
    }
}

/// A workload's process, open for single steps.
pub(crate) struct Subject {
    pub(crate) process: Process,
    pub(crate) pagemap: Pagemap,
    pub(crate) frames: KernelFrames,
    settings: Settings,
}

impl Subject {
    pub(crate) fn open(workload: &Workload) -> Self {
        let process = Process::open(workload.pid()).expect("the workload lives");
        Self {
            pagemap: process.pagemap().expect("its pagemap"),
            process,
            frames: KernelFrames::open().expect("root may read frames"),
            settings: Settings {
                orders: vec![recoup_sys::units::PMD_ORDER],
                map_counts: MapCounts::EachPage,
                sampling: Sampling::SPARSE,
                zero_page: None,
                picture: Picture::Skip,
            },
        }
    }

    /// What a run would do about a range.
    pub(crate) fn actions(&self, range: PageRange) -> Vec<Action> {
        let words = KernelWords::Held(&self.pagemap);
        let mut walk = Walk::new(&words, &[range]);
        let mut scan = Scan::new(&self.settings, Some(&self.frames));
        let findings = scan.find(&mut walk, usize::MAX).expect("the workload lives");
        Plan::new(&findings, &policy()).actions
    }
}

/// Maps so many huge pages anew, each of which keeps its first page only.
pub(crate) fn make_holes(workload: &mut Workload, huge_pages: u64) -> PageRange {
    workload.tell("unmap a");
    let addresses = workload.map(&format!("map a {} huge", huge_pages * BLOCK));
    workload.tell(&format!("fill a 0 1 {BLOCK} {huge_pages}"));
    workload.tell(&format!("discard a 1 {} {BLOCK} {huge_pages}", BLOCK - 1));
    pages(&addresses)
}
