//! What was found and what came of it, as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use recoup_sys::{Bytes, PageRange, Pages};

use crate::scan::holes::Hole;
use crate::scan::lazyfree::LazyRun;
use crate::scan::owners::Owners;
use crate::scan::picture::Cell;

/// Amounts of stuck memory by kind; also used for what of it came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Charged but unmapped parts of huge pages.
    pub thp_holes: Bytes,
    /// Huge pages with such parts.
    pub thp_holes_count: u64,
    /// Lazily freed pages that are still resident.
    pub lazyfree: Bytes,
    /// Page tables that map nothing.
    pub empty_tables: Bytes,
    /// Page tables that map nothing but the zero page.
    pub zero_tables: Bytes,
}

impl Stuck {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Bytes {
        self.thp_holes + self.lazyfree + self.empty_tables + self.zero_tables
    }

    /// What one hole amounts to.
    #[must_use]
    pub fn hole(hole: &Hole) -> Self {
        Self { thp_holes: hole.unmapped.bytes(), thp_holes_count: 1, ..Self::default() }
    }

    /// What one run of lazily freed pages amounts to.
    #[must_use]
    pub fn lazily_freed(run: &LazyRun) -> Self {
        Self { lazyfree: run.range.length().bytes(), ..Self::default() }
    }
}

impl AddAssign for Stuck {
    fn add_assign(&mut self, other: Self) {
        self.thp_holes += other.thp_holes;
        self.thp_holes_count += other.thp_holes_count;
        self.lazyfree += other.lazyfree;
        self.empty_tables += other.empty_tables;
        self.zero_tables += other.zero_tables;
    }
}

/// Why something stuck was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Another process maps the huge page too.
    Shared,
    /// Less than `--min-bytes`.
    TooSmall,
    /// mlock(2)ed, or another kind of memory that takes no such advice.
    Locked,
    /// It was asked for, and the kernel passed over it.
    Busy,
    /// The process changed it before it was acted on.
    Changed,
    /// The process writes to it again: it is in use, not stuck.
    InUseAgain,
    /// Lazily freed huge pages beside one that turned out to be in use again.
    NotTried,
    /// Page tables can only be freed from inside of the process.
    OnlyFromInside,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared with another process",
            Self::TooSmall => "smaller than --min-bytes",
            Self::Locked => "locked in memory, or of a kind that takes no advice",
            Self::Busy => "the kernel passed over it: pinned, or in use by the kernel just then",
            Self::Changed => "changed by the process meanwhile",
            Self::InUseAgain => "written again by the process: in use",
            Self::NotTried => "huge pages beside one that is in use again: not tried",
            Self::OnlyFromInside => "page tables can only be freed from inside of the process",
        })
    }
}

/// What was left alone, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftAlone(pub BTreeMap<Reason, Bytes>);

impl LeftAlone {
    /// Adds an amount that was left alone for this reason.
    pub fn add(&mut self, reason: Reason, amount: Bytes) {
        if amount > Bytes::ZERO {
            *self.0.entry(reason).or_default() += amount;
        }
    }

    /// Adds all of another account.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(&reason, &amount)| self.add(reason, amount));
    }
}

/// One kind of request that a plan makes of one mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Huge pages to split.
    pub splits: u64,
    /// What splitting them should free.
    pub split_bytes: Bytes,
    /// Ranges of lazily freed pages to drop, of 2 MiB at most.
    pub drops: u64,
    /// What dropping them should free.
    pub drop_bytes: Bytes,
}

impl AddAssign for Planned {
    fn add_assign(&mut self, other: Self) {
        self.splits += other.splits;
        self.split_bytes += other.split_bytes;
        self.drops += other.drops;
        self.drop_bytes += other.drop_bytes;
    }
}

/// A mapping with something stuck in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingOutcome {
    /// Its addresses.
    pub range: PageRange,
    /// Its name.
    pub name: String,
    /// What is stuck in it; page tables are not counted by mapping.
    pub stuck: Stuck,
    /// What the plan asks of it.
    pub planned: Planned,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub struct ProcessOutcome {
    /// Its number.
    pub pid: i32,
    /// Its short name.
    pub comm: String,
    /// Resident memory before.
    pub rss: Bytes,
    /// Page tables of all levels before.
    pub page_tables: Bytes,
    /// Tables that a fault could rebuild from files or shared memory.
    pub reconstructable_tables: Bytes,
    /// What was found.
    pub stuck: Stuck,
    /// Parts of huge pages that this process does not map but another one may.
    pub shared_holes: Bytes,
    /// What came back, as the second look shows. Nothing unless acted upon.
    pub recovered: Stuck,
    /// What was left alone.
    pub left_alone: LeftAlone,
    /// The mappings with something stuck, largest first.
    pub mappings: Vec<MappingOutcome>,
    /// Whose its anonymous memory is.
    pub owners: Owners,
    /// Pages that were found to hold something.
    pub pages: Pages,
    /// The picture, if one was wanted.
    pub picture: Vec<Cell>,
    /// What kept it from being looked at or acted on; nothing for a process that merely ended.
    pub error: Option<String>,
}
