//! Decides what is done about findings. A dry run prints this plan; a real run carries it out.

use std::collections::BTreeSet;

use recoup_sys::madvise::Advice;
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, PageRange, Pages};

use crate::outcome::{LeftAlone, Planned, Reason};
use crate::scan::Findings;
use crate::scan::holes::{Hole, Sharing};
use crate::scan::lazyfree::{LazyRun, MadeOf};

/// Kinds of stuck memory that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Charged but unmapped parts of huge pages.
    ThpHoles,
    /// Lazily freed pages.
    LazyFree,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ThpHoles, Self::LazyFree];
}

/// What the user wants done.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The kinds to give back.
    pub kinds: BTreeSet<Kind>,
    /// Holes and runs that are smaller than this are left alone.
    pub smallest: Bytes,
}

/// One request to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Split a huge page that has a hole: `MADV_COLD` on one page of it that is mapped.
    Split(Hole),
    /// Drop lazily freed pages: `MADV_PAGEOUT` on exactly those, which keeps written ones.
    Drop(PageRange),
}

impl Action {
    /// The advice to give.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Split(_) => Advice::Cold,
            Self::Drop(_) => Advice::PageOut,
        }
    }

    /// The pages to give it about.
    #[must_use]
    pub fn range(&self) -> PageRange {
        match self {
            Self::Split(hole) => PageRange::starting_at(hole.mapped_page, Pages(1)),
            Self::Drop(range) => *range,
        }
    }

    /// What it should free.
    #[must_use]
    pub fn gain(&self) -> Bytes {
        match self {
            Self::Split(hole) => hole.unmapped.bytes(),
            Self::Drop(range) => range.length().bytes(),
        }
    }

    /// The pages that the kernel has to deal with: what its time goes with.
    #[must_use]
    pub fn work(&self) -> Pages {
        match self {
            Self::Split(hole) => Pages::of_order(hole.order),
            Self::Drop(range) => range.length(),
        }
    }

    /// This action as an entry of a plan's summary.
    #[must_use]
    pub fn planned(&self) -> Planned {
        match self {
            Self::Split(_) => Planned { splits: 1, split_bytes: self.gain(), ..Planned::default() },
            Self::Drop(_) => Planned { drops: 1, drop_bytes: self.gain(), ..Planned::default() },
        }
    }
}

/// What is to be done about findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The requests, all splits first.
    pub actions: Vec<Action>,
    /// Runs of lazily freed huge pages. Whether one is in use again, only the attempt tells, and an
    /// attempt on one that is costs it its mapping as a whole: so the first of each run is tried,
    /// and the others only if it came back.
    pub huge_runs: Vec<Vec<Action>>,
    /// What is left alone, decided without asking the kernel.
    pub left_alone: LeftAlone,
}

impl Plan {
    /// Decides about findings. The same findings and policy give the same plan.
    #[must_use]
    pub fn new(findings: &Findings, policy: &Policy) -> Self {
        let mut plan = Self::default();
        if policy.kinds.contains(&Kind::ThpHoles) {
            findings.holes.iter().for_each(|&hole| plan.consider_hole(hole, policy));
        }
        if policy.kinds.contains(&Kind::LazyFree) {
            findings.lazy.iter().for_each(|run| plan.consider_run(run, policy));
        }
        plan
    }

    fn consider_hole(&mut self, hole: Hole, policy: &Policy) {
        let gain = hole.unmapped.bytes();
        if hole.sharing == Sharing::Shared {
            self.left_alone.add(Reason::Shared, gain);
        } else if gain < policy.smallest {
            self.left_alone.add(Reason::TooSmall, gain);
        } else {
            self.actions.push(Action::Split(hole));
        }
    }

    fn consider_run(&mut self, run: &LazyRun, policy: &Policy) {
        let gain = run.range.length().bytes();
        let pieces = by_block(run.range).map(Action::Drop);
        match run.made_of {
            _ if gain < policy.smallest => self.left_alone.add(Reason::TooSmall, gain),
            MadeOf::SmallPages => self.actions.extend(pieces),
            MadeOf::HugePages => self.huge_runs.push(pieces.collect()),
        }
    }

    /// All requests that may be made.
    pub fn all_actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().chain(self.huge_runs.iter().flatten())
    }
}

/// Cuts a run where a new 2 MiB block begins: no huge page crosses that, and a piece bounds how
/// long one request takes.
fn by_block(run: PageRange) -> impl Iterator<Item = PageRange> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let block_end = rest.start.block_start() + BLOCK.whole_pages();
        let piece = PageRange { end: rest.end.min(block_end), ..rest };
        rest.start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use recoup_sys::{PageIdx, Pfn};

    fn everything(smallest: Bytes) -> Policy {
        Policy { kinds: Kind::ALL.into(), smallest }
    }

    fn hole(page: u64, unmapped: u64, sharing: Sharing) -> Hole {
        let (mapped_page, frame) = (PageIdx(page), Pfn(page));
        Hole { mapped_page, frame, order: 9, unmapped: Pages(unmapped), sharing }
    }

    #[test]
    fn shared_and_small_holes_are_left_alone_and_counted() {
        let findings = Findings {
            holes: vec![
                hole(0, 500, Sharing::Exclusive),
                hole(512, 100, Sharing::Shared),
                hole(1024, 1, Sharing::Exclusive),
            ],
            lazy: vec![],
        };
        let plan = Plan::new(&findings, &everything(Bytes(8192)));
        assert_eq!(plan.actions, [Action::Split(findings.holes[0])]);
        assert_eq!(plan.left_alone.0[&Reason::Shared], Pages(100).bytes());
        assert_eq!(plan.left_alone.0[&Reason::TooSmall], Pages(1).bytes());
    }

    #[test]
    fn what_was_not_asked_for_is_not_in_the_plan() {
        let run = PageRange::starting_at(PageIdx(10), Pages(4));
        let lazy = vec![LazyRun { range: run, made_of: MadeOf::SmallPages }];
        let findings = Findings { holes: vec![hole(0, 9, Sharing::Exclusive)], lazy };
        let only_lazy = Policy { kinds: [Kind::LazyFree].into(), smallest: Bytes::ZERO };
        let plan = Plan::new(&findings, &only_lazy);
        assert_eq!(plan.actions, [Action::Drop(run)]);
        assert!(plan.left_alone.0.is_empty());
    }

    #[test]
    fn huge_pages_are_planned_as_runs_of_which_the_first_is_tried() {
        let range = PageRange::starting_at(PageIdx(512), Pages(3 * 512));
        let lazy = vec![LazyRun { range, made_of: MadeOf::HugePages }];
        let plan = Plan::new(&Findings { holes: vec![], lazy }, &everything(Bytes::ZERO));
        assert!(plan.actions.is_empty());
        assert_eq!(plan.huge_runs.len(), 1);
        assert_eq!(plan.huge_runs[0].len(), 3);
        assert_eq!(plan.all_actions().map(Action::gain).sum::<Bytes>(), range.length().bytes());
    }

    proptest! {
        #[test]
        fn pieces_of_a_run_are_the_run_and_none_crosses_a_block(
            start in 0_u64..4096, length in 1_u64..4096,
        ) {
            let run = PageRange::starting_at(PageIdx(start), Pages(length));
            let pieces: Vec<PageRange> = by_block(run).collect();
            prop_assert_eq!(pieces[0].start, run.start);
            prop_assert_eq!(pieces[pieces.len() - 1].end, run.end);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(pieces.iter().all(|p| p.blocks().length() == Pages(512)));
        }
    }
}
