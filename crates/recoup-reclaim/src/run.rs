//! All of it, over many processes: scan, plan, act, verify, in windows shared out among workers.
//!
//! Within a window the steps alternate in portions of at most [`PORTION`] findings. So what is acted
//! on was looked at moments before, and memory use does not grow with the target.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use recoup_sys::cgroup::Hierarchy;
use recoup_sys::kpage::KernelFrames;
use recoup_sys::maps::Mapping;
use recoup_sys::thp::Thp;
use recoup_sys::units::PAGE;
use recoup_sys::{Features, PageRange, Pages, Process, Support, hugetlb};

use crate::charge::{CgroupOutcome, Ledger};
use crate::host::Host;
use crate::layout::Layout;
use crate::outcome::{ProcessOutcome, Stuck};
use crate::plan::Policy;
use crate::scan::holes::MapCounts;
use crate::scan::lazyfree::Sampling;
use crate::scan::owners::Owners;
use crate::scan::{Picture, Settings};
use crate::target::{self, Candidate, Naming, Target, TargetError};
use crate::window::{Subject, WindowOutcome};

/// Findings that are gathered before they are acted on.
pub const PORTION: usize = 1024;
/// Processes that are open at the same time; each takes three descriptors.
const OPEN_PROCESSES: usize = 64;

/// Workers at most, however many are asked for.
const MOST_WORKERS: usize = 256;

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Look.
    Report,
    /// Look, and say what would be done.
    DryRun,
    /// Do it.
    Reclaim,
}

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which processes.
    pub target: Target,
    /// How far to go.
    pub mode: Mode,
    /// What to give back.
    pub policy: Policy,
    /// Workers; windows of address space are shared out among them.
    pub jobs: NonZeroUsize,
    /// How long one request may keep the target's mmap lock.
    pub longest_hold: Duration,
    /// How closely lazily freed memory is looked for.
    pub sampling: Sampling,
    /// Whether pictures are wanted.
    pub picture: Picture,
}

/// Told how a run gets on, from any worker.
pub trait Observer: Sync {
    /// So many windows have been added to what is to be done.
    fn planned(&self, windows: usize);
    /// One window is done, in which so many pages were looked at.
    fn done(&self, pages: Pages);
}

/// An observer that doesn't care.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn planned(&self, _: usize) {}
    fn done(&self, _: Pages) {}
}

/// All that a run found and did.
#[derive(Clone, Debug, Default)]
pub struct RunOutcome {
    /// How long it took to find the processes, scan them, and do what was asked; without reading the
    /// host's counters.
    pub took: Duration,
    /// Pages that were found to hold something.
    pub pages: Pages,
    /// The processes, most stuck memory first.
    pub processes: Vec<ProcessOutcome>,
    /// Their cgroups.
    pub cgroups: Vec<CgroupOutcome>,
    /// The host.
    pub host: Host,
    /// What was asked for and could not be looked at, in a sentence each.
    pub refused: Vec<String>,
}

impl RunOutcome {
    /// The sum over processes of what was found.
    #[must_use]
    pub fn stuck(&self) -> Stuck {
        sum(self.processes.iter().map(|process| process.stuck))
    }

    /// The sum over processes of what came back.
    #[must_use]
    pub fn recovered(&self) -> Stuck {
        sum(self.processes.iter().map(|process| process.recovered))
    }

    /// Whose the anonymous memory of all processes is.
    #[must_use]
    pub fn owners(&self) -> Owners {
        let mut owners = Owners::default();
        self.processes.iter().for_each(|process| owners.add(process.owners));
        owners
    }

    /// Everything that was asked for and not done.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        let of_processes = self.processes.iter().filter_map(|process| process.error.as_deref());
        self.refused.iter().map(String::as_str).chain(of_processes)
    }
}

fn sum(amounts: impl Iterator<Item = Stuck>) -> Stuck {
    let mut total = Stuck::default();
    amounts.for_each(|amount| total += amount);
    total
}

/// Does what is asked for.
///
/// # Errors
/// [`TargetError`] where the target itself cannot be found. What goes wrong with one process is
/// told with its outcome, and the others are still looked at.
pub fn run(
    request: &Request,
    features: &Features,
    observer: &dyn Observer,
) -> Result<RunOutcome, TargetError> {
    let began = Instant::now();
    let hierarchy = Hierarchy::find()?;
    let selection = request.target.select(hierarchy.as_ref())?;
    let mut ledger = Ledger::new(hierarchy);
    selection.cgroups.iter().for_each(|cgroup| ledger.open(cgroup));
    ledger.open_for(&selection.candidates);
    let runner = Runner::new(request, features, observer);
    let mut outcome = RunOutcome::default();
    outcome.refused.extend(runner.cannot_act());
    let (mut denied, mut seen) = (Vec::new(), Vec::new());
    for candidates in selection.candidates.chunks(OPEN_PROCESSES) {
        let mut subjects =
            runner.open_all(candidates, selection.naming, &mut outcome.refused, &mut denied);
        subjects.retain(|subject| is_first_with_its_memory(subject, &mut seen));
        subjects.iter().for_each(|s| ledger.enter(&s.process, s.summary.rss_anon));
        outcome.processes.extend(runner.work(&subjects));
    }
    outcome.refused.extend(denial(&denied));
    outcome.processes.sort_by_key(|process| std::cmp::Reverse(process.stuck.total()));
    outcome.pages = outcome.processes.iter().map(|process| process.pages).sum();
    outcome.cgroups = ledger.close();
    outcome.took = began.elapsed();
    outcome.host = Host::read();
    Ok(outcome)
}

/// Whether no process seen before has the same address space: what two share counts once.
fn is_first_with_its_memory(subject: &Subject, seen: &mut Vec<(u64, i32)>) -> bool {
    let (stack, process) = (subject.summary.stack_start, &subject.process);
    let shares = |&(other_stack, other): &(u64, i32)| {
        other_stack == stack && process.shares_memory_with(other)
    };
    let first = !seen.iter().any(shares);
    if first {
        seen.push((stack, process.pid()));
    }
    first
}

/// One sentence about all processes that may not be looked at.
fn denial(pids: &[i32]) -> Option<String> {
    let remedy = "may not be looked at: run as root, or as their owner";
    match pids {
        [] => None,
        [pid] => Some(format!("process {pid} {remedy}")),
        [first, rest @ ..] => Some(format!("process {first} and {} others {remedy}", rest.len())),
    }
}

/// What all windows of a run have in common.
pub(crate) struct Runner<'a> {
    pub(crate) request: &'a Request,
    pub(crate) features: &'a Features,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) settings: Settings,
    pub(crate) frames: Option<KernelFrames>,
    pub(crate) hugetlb_devices: BTreeSet<(u32, u32)>,
}

impl<'a> Runner<'a> {
    fn new(request: &'a Request, features: &'a Features, observer: &'a dyn Observer) -> Self {
        let map_counts = match features.page_map_counts.works() {
            true => MapCounts::EachPage,
            false => MapCounts::Average,
        };
        let settings = Settings {
            map_counts,
            orders: Thp::of_host().orders_in_use(),
            sampling: request.sampling,
            zero_page: features.zero_page,
            picture: request.picture,
        };
        let frames = features.frame_numbers.works().then(|| KernelFrames::open().ok()).flatten();
        let hugetlb_devices = hugetlb::devices();
        Self { request, features, observer, settings, frames, hugetlb_devices }
    }

    /// Opens processes; those that may not be looked at are added to `denied`, what else goes wrong
    /// to `refused`.
    fn open_all(
        &self,
        candidates: &[Candidate],
        naming: Naming,
        refused: &mut Vec<String>,
        denied: &mut Vec<i32>,
    ) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for candidate in candidates {
            match target::open(candidate, naming) {
                Ok(None) => {}
                Ok(Some(process)) => match self.subject(process) {
                    Ok(subject) => subjects.push(subject),
                    // It was there a moment ago: ending is no error.
                    Err(error) if error.is_gone() => {}
                    Err(error) if error.is_denied() => denied.push(candidate.pid()),
                    Err(error) => refused.push(error.to_string()),
                },
                Err(sentence) => refused.push(sentence),
            }
        }
        subjects
    }

    /// Why nothing can be given back, if that was asked for and a privilege is missing.
    fn cannot_act(&self) -> Option<String> {
        let features = self.features;
        let needed = [
            &features.frame_numbers,
            &features.frame_flags,
            &features.process_madvise,
            &features.advise_others,
        ];
        let missing = Support::first_missing(needed);
        let (why, remedy) = missing.filter(|_| self.request.mode != Mode::Report)?;
        Some(format!("not everything can be given back, since {why}: {remedy}"))
    }

    /// The devices of hugetlb files that are mounted in the process's own mount namespace only. Of
    /// such a file, a mapping's ends are multiples of 2 MiB at least.
    fn foreign_hugetlb(&self, process: &Process, mappings: &[Mapping]) -> BTreeSet<(u32, u32)> {
        let may_be = |mapping: &&Mapping| {
            let blocks = mapping.range.blocks() == mapping.range;
            mapping.inode != 0 && blocks && !self.hugetlb_devices.contains(&mapping.device)
        };
        let has_large_pages = |mapping: &&Mapping| {
            process.page_size_at(mapping.range.start).is_ok_and(|size| size > PAGE)
        };
        let queried = mappings.iter().filter(|_| self.features.procmap_query.works());
        queried.filter(may_be).filter(has_large_pages).map(|mapping| mapping.device).collect()
    }

    fn subject(&self, process: Arc<Process>) -> recoup_sys::Result<Subject> {
        let pagemap = process.pagemap()?;
        let mappings = process.mappings()?;
        let mut hugetlb = self.hugetlb_devices.clone();
        hugetlb.extend(self.foreign_hugetlb(&process, &mappings));
        let layout = Layout::new(mappings, &hugetlb);
        let summary = process.summary()?;
        Ok(Subject { process, summary, pagemap, layout })
    }

    /// Shares the windows of all subjects out among workers.
    fn work(&self, subjects: &[Subject]) -> Vec<ProcessOutcome> {
        let windows: Vec<(usize, Vec<PageRange>)> = subjects
            .iter()
            .enumerate()
            .flat_map(|(i, subject)| subject.layout.windows().into_iter().map(move |w| (i, w)))
            .collect();
        self.observer.planned(windows.len());
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut done = Vec::new();
            // Relaxed: the counter hands out numbers and orders nothing else.
            while let Some((subject, ranges)) = windows.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = self.window(&subjects[*subject], ranges);
                self.observer.done(outcome.pages);
                done.push((*subject, outcome));
            }
            done
        };
        let workers = self.request.jobs.get().min(windows.len()).min(MOST_WORKERS);
        let mut parts: Vec<Vec<WindowOutcome>> = Vec::new();
        parts.resize_with(subjects.len(), Vec::new);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            for thread in threads {
                let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.into_iter().for_each(|(subject, outcome)| parts[subject].push(outcome));
            }
        });
        subjects.iter().zip(parts).map(|(subject, parts)| self.merge(subject, parts)).collect()
    }
}
