//! All of it, over many processes: scan, plan, act, verify, in windows shared out among workers.
//!
//! Within a window the steps alternate in portions of at most [`PORTION`] findings. So what is acted
//! on was looked at moments before, and memory use does not grow with the target.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use recoup_sys::cgroup::Hierarchy;
use recoup_sys::kpage::KernelFrames;
use recoup_sys::pagemap::Pagemap;
use recoup_sys::process::Summary;
use recoup_sys::thp::Thp;
use recoup_sys::{Bytes, Features, PageIdx, PageRange, Pages, Process, hugetlb};

use crate::act::{self, Pace};
use crate::charge::{CgroupOutcome, Ledger};
use crate::host::Host;
use crate::layout::Layout;
use crate::outcome::{LeftAlone, MappingOutcome, ProcessOutcome, Reason, Stuck};
use crate::plan::{Plan, Policy};
use crate::scan::holes::Sharing;
use crate::scan::lazyfree::Sampling;
use crate::scan::owners::Owners;
use crate::scan::picture::{Cell, Content};
use crate::scan::tables::{self, Census};
use crate::scan::walk::{KernelWords, Walk};
use crate::scan::{Findings, Picture, Scan, Settings};
use crate::target::{self, Naming, Target, TargetError};
use crate::verify;

/// Findings that are gathered before they are acted on.
pub const PORTION: usize = 1024;
/// Processes that are open at the same time; each takes three descriptors.
const OPEN_PROCESSES: usize = 64;

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
    /// How long it took.
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
        self.processes
            .iter()
            .for_each(|process| owners.add(process.owners));
        owners
    }

    /// Everything that was asked for and not done.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        let of_processes = self
            .processes
            .iter()
            .filter_map(|process| process.error.as_deref());
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
    selection
        .cgroups
        .iter()
        .for_each(|cgroup| ledger.open(cgroup));
    let runner = Runner::new(request, features, observer);
    let mut outcome = RunOutcome::default();
    for pids in selection.pids.chunks(OPEN_PROCESSES) {
        let subjects = runner.open_all(pids, selection.naming, &mut outcome.refused);
        subjects
            .iter()
            .for_each(|s| ledger.enter(&s.process, s.summary.rss_anon));
        outcome.processes.extend(runner.work(&subjects));
    }
    outcome
        .processes
        .sort_by_key(|process| std::cmp::Reverse(process.stuck.total()));
    outcome.pages = outcome.processes.iter().map(|process| process.pages).sum();
    outcome.cgroups = ledger.close();
    outcome.host = Host::read();
    outcome.took = began.elapsed();
    Ok(outcome)
}

/// A process, open for a run.
struct Subject {
    process: Process,
    summary: Summary,
    pagemap: Pagemap,
    layout: Layout,
}

/// What one window yielded.
#[derive(Default)]
struct WindowOutcome {
    stuck: Stuck,
    shared_holes: Bytes,
    recovered: Stuck,
    left_alone: LeftAlone,
    mappings: BTreeMap<usize, MappingOutcome>,
    census: Census,
    owners: Owners,
    pages: Pages,
    picture: Vec<Cell>,
    ended: Option<recoup_sys::Error>,
}

/// What all windows of a run have in common.
struct Runner<'a> {
    request: &'a Request,
    features: &'a Features,
    observer: &'a dyn Observer,
    settings: Settings,
    frames: Option<KernelFrames>,
    hugetlb_devices: BTreeSet<(u32, u32)>,
}

impl<'a> Runner<'a> {
    fn new(request: &'a Request, features: &'a Features, observer: &'a dyn Observer) -> Self {
        let settings = Settings {
            orders: Thp::of_host().orders_in_use(),
            sampling: request.sampling,
            zero_page: features.zero_page,
            picture: request.picture,
        };
        let frames = features
            .frame_numbers
            .works()
            .then(|| KernelFrames::open().ok())
            .flatten();
        let hugetlb_devices = hugetlb::devices();
        Self {
            request,
            features,
            observer,
            settings,
            frames,
            hugetlb_devices,
        }
    }

    fn open_all(&self, pids: &[i32], naming: Naming, refused: &mut Vec<String>) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for &pid in pids {
            match target::open(pid, naming) {
                Ok(None) => {}
                Ok(Some(process)) => match self.subject(process) {
                    Ok(subject) => subjects.push(subject),
                    Err(error) if error.is_gone() && naming == Naming::Found => {}
                    Err(error) if error.is_denied() => refused.push(format!(
                        "process {pid} may not be looked at: run as root, or as its owner ({error})"
                    )),
                    Err(error) => refused.push(error.to_string()),
                },
                Err(sentence) => refused.push(sentence),
            }
        }
        subjects
    }

    fn subject(&self, process: Process) -> recoup_sys::Result<Subject> {
        let pagemap = process.pagemap()?;
        let layout = Layout::new(process.mappings()?, &self.hugetlb_devices);
        let summary = process.summary()?;
        Ok(Subject {
            process,
            summary,
            pagemap,
            layout,
        })
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
        let workers = self.request.jobs.get().min(windows.len());
        let mut parts: Vec<Vec<WindowOutcome>> = Vec::new();
        parts.resize_with(subjects.len(), Vec::new);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            for thread in threads {
                let done = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.into_iter()
                    .for_each(|(subject, outcome)| parts[subject].push(outcome));
            }
        });
        subjects
            .iter()
            .zip(parts)
            .map(|(subject, parts)| self.merge(subject, parts))
            .collect()
    }

    /// Scans one window, and does about its findings what is asked.
    fn window(&self, subject: &Subject, ranges: &[PageRange]) -> WindowOutcome {
        let mut outcome = WindowOutcome::default();
        let words = if self.features.pagemap_scan.works() {
            KernelWords::Seekable(&subject.pagemap)
        } else {
            KernelWords::StreamOnly(&subject.pagemap)
        };
        let mut walk = Walk::new(&words, ranges);
        let mut scan = Scan::new(&self.settings, self.frames.as_ref());
        let mut pace = Pace::new(self.request.longest_hold);
        loop {
            let findings = match scan.find(&mut walk, PORTION) {
                Ok(findings) if findings.is_empty() => break,
                Ok(findings) => findings,
                Err(error) => {
                    outcome.ended = Some(error);
                    break;
                }
            };
            outcome.count(subject, &findings);
            if let Err(error) = self.deal_with(subject, &findings, &mut pace, &mut outcome) {
                outcome.ended = Some(error);
                break;
            }
        }
        outcome.owners = scan.owners;
        outcome.pages = scan.pages;
        outcome.census = std::mem::take(&mut scan.census);
        outcome.picture = scan.into_picture();
        outcome
    }

    fn deal_with(
        &self,
        subject: &Subject,
        findings: &Findings,
        pace: &mut Pace,
        outcome: &mut WindowOutcome,
    ) -> recoup_sys::Result<()> {
        if self.request.mode == Mode::Report {
            return Ok(());
        }
        let plan = Plan::new(findings, &self.request.policy);
        outcome.left_alone.merge(&plan.left_alone);
        outcome.note_plan(subject, &plan);
        let (Mode::Reclaim, Some(frames)) = (self.request.mode, &self.frames) else {
            return Ok(());
        };
        let Subject {
            process, pagemap, ..
        } = subject;
        let target = act::Target {
            process,
            pagemap,
            frames,
        };
        let asked = act::act(&target, &plan.actions, pace, &mut outcome.left_alone)?;
        outcome.recovered += verify::verify(&target, &asked, &mut outcome.left_alone)?;
        Ok(())
    }

    /// Puts the windows of a process together.
    fn merge(&self, subject: &Subject, windows: Vec<WindowOutcome>) -> ProcessOutcome {
        let summary = &subject.summary;
        let mut process = ProcessOutcome {
            pid: subject.process.pid(),
            comm: summary.comm.clone(),
            rss: summary.rss,
            page_tables: summary.page_tables,
            ..ProcessOutcome::default()
        };
        let mut census = Census::default();
        let mut mappings: BTreeMap<usize, MappingOutcome> = BTreeMap::new();
        let mut ended = None;
        for window in windows {
            process.stuck += window.stuck;
            process.shared_holes += window.shared_holes;
            process.recovered += window.recovered;
            process.left_alone.merge(&window.left_alone);
            process.owners.add(window.owners);
            process.pages += window.pages;
            process.picture.extend(window.picture);
            census.add(&window.census);
            for (index, mapping) in window.mappings {
                let entry = mappings
                    .entry(index)
                    .or_insert_with(|| mapping_of(subject, index));
                entry.stuck += mapping.stuck;
                entry.planned += mapping.planned;
            }
            ended = ended.or(window.ended);
        }
        process.mappings = mappings.into_values().collect();
        process
            .mappings
            .sort_by_key(|mapping| std::cmp::Reverse(mapping.stuck.total()));
        process.reconstructable_tables = census.reconstructable.bytes();
        match ended {
            None => self.add_tables(subject, &census, &mut process),
            Some(error) if error.is_gone() => {}
            Some(error) => process.error = Some(format!("process {}: {error}", process.pid)),
        }
        process
    }

    fn add_tables(&self, subject: &Subject, census: &Census, process: &mut ProcessOutcome) {
        process.stuck.zero_tables = census.zero_only.bytes();
        // Tables come and go while a process is scanned: what was there all along is the least.
        let now = subject
            .process
            .summary()
            .map_or(Bytes::ZERO, |summary| summary.page_tables);
        let page_tables = now.min(process.page_tables);
        process.stuck.empty_tables = census.empty(page_tables, subject.layout.assumed_tables);
        if self.request.mode != Mode::Report {
            let tables = process.stuck.empty_tables + process.stuck.zero_tables;
            process.left_alone.add(Reason::OnlyFromInside, tables);
        }
        if self.request.picture == Picture::Draw && self.features.table_search.works() {
            add_empty_tables(subject, &mut process.picture);
        }
    }
}

impl WindowOutcome {
    fn count(&mut self, subject: &Subject, findings: &Findings) {
        for hole in &findings.holes {
            match hole.sharing {
                Sharing::Exclusive => self.add(subject, hole.mapped_page, Stuck::hole(hole)),
                Sharing::Shared => self.shared_holes += hole.unmapped.bytes(),
            }
        }
        for &run in &findings.lazy {
            self.add(subject, run.start, Stuck::lazily_freed(run));
        }
    }

    fn add(&mut self, subject: &Subject, page: PageIdx, stuck: Stuck) {
        self.stuck += stuck;
        if let Some(index) = subject.layout.mapping_at(page) {
            self.mappings.entry(index).or_default().stuck += stuck;
        }
    }

    fn note_plan(&mut self, subject: &Subject, plan: &Plan) {
        for action in &plan.actions {
            if let Some(index) = subject.layout.mapping_at(action.range().start) {
                self.mappings.entry(index).or_default().planned += action.planned();
            }
        }
    }
}

fn mapping_of(subject: &Subject, index: usize) -> MappingOutcome {
    let mapping = &subject.layout.mappings[index];
    MappingOutcome {
        range: mapping.range,
        name: mapping.name.clone(),
        ..MappingOutcome::default()
    }
}

/// Adds a cell for each block that has a page table and nothing in it.
fn add_empty_tables(subject: &Subject, picture: &mut Vec<Cell>) {
    let painted: BTreeSet<_> = picture.iter().map(|cell| cell.start).collect();
    for &range in &subject.layout.searched {
        // A process that ends meanwhile has no tables to show.
        let tables = tables::locate(&subject.pagemap, range).unwrap_or_default();
        for table in tables {
            let block = recoup_sys::units::BLOCK.whole_pages();
            let mut start = table.start;
            while start < table.end {
                if !painted.contains(&start) {
                    let mut cell = Cell::new(start);
                    cell.add(Content::EmptyTable, block);
                    picture.push(cell);
                }
                start = start + block;
            }
        }
    }
    picture.sort_by_key(|cell| cell.start);
}
