//! One window of one process: scan, plan, act, verify, in portions.

use std::collections::BTreeMap;
use std::sync::Arc;

use recoup_sys::kpage::Frames;
use recoup_sys::pagemap::Pagemap;
use recoup_sys::process::Summary;
use recoup_sys::{Bytes, PageIdx, PageRange, Pages, Process};

use crate::act::{self, Paces};
use crate::layout::Layout;
use crate::outcome::{LeftAlone, MappingOutcome, Reason, Stuck};
use crate::plan::{Action, Plan};
use crate::run::{Mode, PORTION, Runner};
use crate::scan::holes::Sharing;
use crate::scan::owners::Owners;
use crate::scan::picture::Cell;
use crate::scan::tables::Census;
use crate::scan::walk::{KernelWords, Walk};
use crate::scan::{Findings, Scan};
use crate::verify;

/// A process, open for a run.
pub(crate) struct Subject {
    pub(crate) process: Arc<Process>,
    pub(crate) summary: Summary,
    pub(crate) pagemap: Pagemap,
    pub(crate) layout: Layout,
}

/// What one window yielded.
#[derive(Default)]
pub(crate) struct WindowOutcome {
    pub(crate) stuck: Stuck,
    pub(crate) shared_holes: Bytes,
    pub(crate) recovered: Stuck,
    pub(crate) left_alone: LeftAlone,
    pub(crate) mappings: BTreeMap<usize, MappingOutcome>,
    pub(crate) census: Census,
    pub(crate) owners: Owners,
    pub(crate) pages: Pages,
    pub(crate) picture: Vec<Cell>,
    pub(crate) ended: Option<recoup_sys::Error>,
}

impl Runner<'_> {
    /// Scans one window, and does about its findings what is asked.
    pub(crate) fn window(&self, subject: &Subject, ranges: &[PageRange]) -> WindowOutcome {
        let mut outcome = WindowOutcome::default();
        let words = KernelWords::new(&subject.pagemap, self.features);
        let mut walk = Walk::new(&words, ranges);
        let mut scan = Scan::new(&self.settings, self.frames.as_ref());
        let mut pace = Paces::new(self.request.longest_hold);
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
        pace: &mut Paces,
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
        let target = act::Target { process: &subject.process, frames };
        outcome.carry_out(&target, &plan.actions, pace)?;
        for run in &plan.huge_runs {
            let (first, others) = run.split_at(run.len().min(1));
            if outcome.carry_out(&target, first, pace)? > Bytes::ZERO {
                outcome.carry_out(&target, others, pace)?;
            } else {
                let rest = others.iter().map(Action::gain).sum();
                outcome.left_alone.add(Reason::NotTried, rest);
            }
        }
        Ok(())
    }
}

impl WindowOutcome {
    /// Acts, looks again, and returns what came back.
    fn carry_out<F: Frames>(
        &mut self,
        target: &act::Target<'_, F>,
        actions: &[Action],
        pace: &mut Paces,
    ) -> recoup_sys::Result<Bytes> {
        let asked = act::act(target, actions, pace, &mut self.left_alone)?;
        let recovered = verify::verify(target, &asked, &mut self.left_alone)?;
        self.recovered += recovered;
        Ok(recovered.total())
    }

    fn count(&mut self, subject: &Subject, findings: &Findings) {
        for hole in &findings.holes {
            match hole.sharing {
                Sharing::Exclusive => self.add(subject, hole.mapped_page, Stuck::hole(hole)),
                Sharing::Shared => self.shared_holes += hole.unmapped.bytes(),
            }
        }
        for run in &findings.lazy {
            self.add(subject, run.range.start, Stuck::lazily_freed(run));
        }
    }

    fn add(&mut self, subject: &Subject, page: PageIdx, stuck: Stuck) {
        self.stuck += stuck;
        if let Some(index) = subject.layout.mapping_at(page) {
            self.mappings.entry(index).or_default().stuck += stuck;
        }
    }

    fn note_plan(&mut self, subject: &Subject, plan: &Plan) {
        for action in plan.all_actions() {
            if let Some(index) = subject.layout.mapping_at(action.range().start) {
                self.mappings.entry(index).or_default().planned += action.planned();
            }
        }
    }
}
