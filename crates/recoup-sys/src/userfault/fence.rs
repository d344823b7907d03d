//! The fence: what is done while nobody can add a page to a range.

#![expect(unsafe_code, reason = "empty memory is discarded, or mapped anew")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::{Errno, Result};
use rustix::ioctl::opcode;
use rustix::mm::Advice;
use rustix::process::{Pid, getpid};

use super::{GROUP, Range, Settled, Userfault, register};
use crate::own::{address, length};
use crate::pagemap::{Pagemap, Query, Run};
use crate::reserved::{self, TableReclaim};
use crate::units::{PageIdx, PageRange, Pages};
use crate::urgency;

/// What a fence keeps away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Whatever would add a page.
    Additions,
    /// That, and writes to pages that are there: the shared zero page can be discarded, too.
    AdditionsAndWrites,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// A range to which nobody can add a page, until this is dropped.
///
/// Who raised it must not touch missing pages of it himself: he would wait for himself.
#[derive(Debug)]
pub struct Fence<'a> {
    fault: &'a mut Userfault,
    pages: PageRange,
    against: Against,
    by: TableReclaim,
    /// What is fenced to the end. What was mapped anew is not.
    left: PageRange,
    /// The promise lasts as long as the fence.
    settled: &'a Settled,
}

impl<'a> Fence<'a> {
    /// For the pages that were just registered.
    pub(super) fn around(
        fault: &'a mut Userfault,
        settled: &'a Settled,
        pages: PageRange,
        against: Against,
        by: TableReclaim,
    ) -> Self {
        Self { fault, pages, against, by, left: pages, settled }
    }

    /// The fenced pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Looks at the fenced `part` and frees the tables of all its 2 MiB blocks that hold nothing
    /// (against writes, too: nothing but the zero page): by one large `MADV_DONTNEED` from one block in use
    /// to the next where the kernel frees tables on that (`CONFIG_PT_RECLAIM`, 6.14), then tables of higher
    /// levels stay; or by mapping them anew, which takes the fence from them. (No other call does behind a
    /// fence: mremap(2) moves a fenced mapping page by page and leaves the tables.)
    /// Returns how far it came: less far than the end of `part` if `runs`, its work space, was full.
    /// That must not lie in the fenced range. What was looked at once is not looked at behind the same
    /// fence again.
    ///
    /// Costs some 0.5 us a table to look at (twice against writes) and 0.4 us to free. How many were
    /// freed, only `VmPTE` tells.
    ///
    /// # Errors
    /// `EINVAL` if `part` is not fenced (any more) or not made of whole blocks, or `runs` is, and for locked
    /// memory; `EBADF` in a forked child; else those of madvise(2) or mmap(2). What was freed before
    /// stays freed.
    pub fn free_empty(&mut self, part: PageRange, runs: &mut [Run]) -> Result<PageIdx> {
        if !self.fault.is_usable() {
            return Err(Errno::BADF);
        }
        let look = Look { pagemap: &self.fault.pagemap, query: self.query(), fenced: self.pages };
        look.check(part, self.left, runs)?;
        let at = look.at_gaps(part, runs, |gap| self.free_gap(gap));
        self.left.start = at.unwrap_or(part.end).max(self.left.start);
        at
    }

    /// Whether a second thread can free behind it: not against writes, and not by mapping anew (two who do
    /// that wait for each other's looks).
    #[must_use]
    pub fn can_be_shared(&self) -> bool {
        self.against == Against::Additions && self.by == TableReclaim::Discard
    }

    /// Lets a second thread free in `part`, with which what is this thread's to free ends. The fence then
    /// stays up until what this returns has been dropped: whoever drops the fence first waits for that.
    ///
    /// # Errors
    /// `EINVAL` if `part` is not fenced (any more), or the fence cannot be shared; `EBUSY` if there is a
    /// second, or this one is at another fence; `EBADF` if either belongs to another process; `EMFILE`
    /// at the limit on descriptors.
    pub fn share(&mut self, second: &Arc<Second>, part: PageRange) -> Result<Shared> {
        if !self.can_be_shared() || self.left.intersection(part) != part {
            return Err(Errno::INVAL);
        }
        if !self.fault.is_usable() || second.opened_by != getpid() {
            return Err(Errno::BADF);
        }
        let file = self.fault.file.as_ref().ok_or(Errno::BADF)?;
        let file = rustix::io::fcntl_dupfd_cloexec(file, 0)?;
        // Acquire: with all that it did at the last fence.
        if self.fault.second.is_some() || second.busy.swap(true, Ordering::Acquire) {
            return Err(Errno::BUSY);
        }
        let turn = Turn(Arc::clone(second));
        self.fault.second = Some(Arc::clone(second));
        self.left.end = part.start;
        let (fenced, settled) = (self.pages, self.settled.clone());
        Ok(Shared { _file: file, fenced, left: part, _settled: settled, turn })
    }

    fn query(&self) -> Query {
        match self.against {
            Against::Additions => Query::Held,
            Against::AdditionsAndWrites => Query::HeldNotZero,
        }
    }

    /// Frees the tables of fenced blocks in which a look has just found nothing held.
    fn free_gap(&self, gap: PageRange) -> Result<()> {
        if gap.is_empty() {
            return Ok(());
        }
        if self.against == Against::Additions {
            return self.free_seen(gap);
        }
        // Only what seems empty is protected, never what is in use. A page of zeros may have been
        // written to since the look, so another one follows.
        let request = WriteProtect { range: gap.into(), mode: 1 };
        self.fault.ask::<{ opcode::read_write::<WriteProtect>(GROUP, 6) }, _>(request)?;
        let mut left = gap;
        while !left.is_empty() {
            let mut runs = [Run::default()];
            let looked = self.fault.pagemap.find(self.query(), left, &mut runs)?;
            let held = looked.runs.first().map(|run| run.range().blocks());
            let held = held.unwrap_or(PageRange { start: left.end, end: left.end });
            self.free_seen(PageRange { start: left.start, end: held.start })?;
            left.start = held.end;
        }
        Ok(())
    }

    /// Frees the tables of fenced blocks that were seen empty behind the fence.
    fn free_seen(&self, empty: PageRange) -> Result<()> {
        match (self.by, self.settled.plain, self.fault.file.as_ref()) {
            (TableReclaim::Discard, ..) => discard(empty),
            _ if empty.is_empty() => Ok(()),
            (TableReclaim::Remap, Some(huge_pages), Some(file)) => {
                // SAFETY: as in `discard`; that it is mapped like this `Settled::plain` promises. Whoever
                // waits at the fence finds the new mapping when that is lifted, which wakes all in the range.
                unsafe { reserved::map_anew(empty, huge_pages) }?;
                // Not to keep anybody out, which is too late: so it is one mapping again with what is
                // around. Some kernels (6.12) let a mapping without pages join another only if it is
                // itself what changes, and the lifting of the fence changes those around it.
                register(file, empty, self.against)
            }
            // Refused by `Userfault::fence`.
            (TableReclaim::Remap, ..) => Err(Errno::INVAL),
        }
    }
}

/// How often one who waits for his second looks: who asks it himself before never gets that far.
const GLANCE: Duration = Duration::from_micros(20);

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        // The fence that a forked child inherits is its parent's.
        if !self.fault.is_usable() {
            return;
        }
        while self.fault.second.as_ref().is_some_and(|second| second.is_busy()) {
            urgency::rest(GLANCE);
        }
        let range = Range::from(self.pages);
        let lifted = self.fault.ask::<{ opcode::read::<Range>(GROUP, 1) }, _>(range);
        // One who went to sleep while the first was at work is woken by the second.
        let woken = self.fault.ask::<{ opcode::read::<Range>(GROUP, 2) }, _>(range);
        if lifted.and(woken).is_err() {
            // The mapping is gone, or some of it is another's now. Some of the fence may still be
            // up: the descriptor's close lifts all of it.
            self.fault.file = None;
        }
    }
}

/// What a thread needs to free behind the fence of another one, at one fence at a time.
#[derive(Debug)]
pub struct Second {
    pagemap: Pagemap,
    opened_by: Pid,
    busy: AtomicBool,
}

impl Second {
    /// Opens it for this address space.
    ///
    /// # Errors
    /// Those of open(2) for `/proc/self/pagemap`.
    pub fn open() -> Result<Self> {
        let busy = AtomicBool::new(false);
        Ok(Self { pagemap: Pagemap::open_own()?, opened_by: getpid(), busy })
    }

    /// Whether it is behind a fence.
    pub(super) fn is_busy(&self) -> bool {
        // Acquire: what it freed was behind that fence.
        self.busy.load(Ordering::Acquire)
    }
}

/// A part of a fenced range for a second thread: the fence stays up until this is dropped. What the
/// thread itself uses must not lie in the fenced range: it would wait for itself.
#[derive(Debug)]
pub struct Shared {
    /// Keeps the fence up, should the [`Userfault`] be closed.
    _file: OwnedFd,
    fenced: PageRange,
    /// What is fenced to the end, and this thread's to free.
    left: PageRange,
    /// The promise lasts as long as this, too.
    _settled: Settled,
    /// Dropped last: from then on the fence may come down.
    turn: Turn,
}

/// The time of a second behind a fence.
#[derive(Debug)]
struct Turn(Arc<Second>);

impl Shared {
    /// As [`Fence::free_empty`] does in its range.
    ///
    /// # Errors
    /// As there.
    pub fn free_empty(&mut self, part: PageRange, runs: &mut [Run]) -> Result<PageIdx> {
        // In a forked child no fence is up.
        let second = &self.turn.0;
        if second.opened_by != getpid() {
            return Err(Errno::BADF);
        }
        let look = Look { pagemap: &second.pagemap, query: Query::Held, fenced: self.fenced };
        look.check(part, self.left, runs)?;
        let at = look.at_gaps(part, runs, discard);
        self.left.start = at.unwrap_or(part.end).max(self.left.start);
        at
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Release: all that was freed comes before the fence's end.
        self.0.busy.store(false, Ordering::Release);
    }
}

/// A look behind a fence.
struct Look<'a> {
    pagemap: &'a Pagemap,
    query: Query,
    /// What whoever looks must not touch.
    fenced: PageRange,
}

impl Look<'_> {
    /// Whether this can be looked at: whole blocks that are `left`, and room for runs outside of the fence.
    fn check(&self, part: PageRange, left: PageRange, runs: &[Run]) -> Result<()> {
        let whole = part.blocks() == part && left.intersection(part) == part;
        if whole && !runs.is_empty() && !self.covers(runs) { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// Calls for each run of whole blocks in `part` that hold nothing the look is for; returns how far
    /// it came.
    fn at_gaps(
        &self,
        part: PageRange,
        runs: &mut [Run],
        mut at_gap: impl FnMut(PageRange) -> Result<()>,
    ) -> Result<PageIdx> {
        let looked = self.pagemap.find(self.query, part, runs)?;
        // Not to be taken for looked at: a block that the look left in the middle.
        let until = looked.looked_until.block_start().max(part.start).min(part.end);
        let mut start = part.start;
        for run in looked.runs {
            let held = run.range().blocks();
            at_gap(PageRange { start, end: held.start })?;
            start = start.max(held.end);
        }
        at_gap(PageRange { start, end: until })?;
        Ok(until.max(start).min(part.end))
    }

    /// Whether these runs lie in the fenced range, at least in part.
    fn covers(&self, runs: &[Run]) -> bool {
        let places = runs.as_ptr_range();
        let first = PageIdx::containing(places.start.addr() as u64);
        let last = PageIdx::containing((places.end.addr() as u64).saturating_sub(1));
        !self.fenced.intersection(PageRange { start: first, end: last + Pages(1) }).is_empty()
    }
}

/// Frees the tables of fenced blocks that were seen empty behind the fence by discarding them.
fn discard(empty: PageRange) -> Result<()> {
    if empty.is_empty() {
        return Ok(());
    }
    // SAFETY: the range is fenced, and was seen since to hold nothing that is not zero; no thread can have
    // changed that, and `Settled` promises that the mapping is still the same. Fence and look are of this
    // memory: both callers have asked whether this is the process that opened them.
    unsafe { rustix::mm::madvise(address(empty.start), length(empty), Advice::LinuxDontNeed) }
}
