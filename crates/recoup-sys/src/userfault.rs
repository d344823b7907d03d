//! userfaultfd(2), and the fence that is made of it: for a moment, nobody can add a page to a range.
//!
//! # The fence
//! From its registration for missing pages on (Linux 4.3), whoever touches a page of the range that is
//! not there waits, system calls included, until the range is let go, and then goes on with a fresh
//! page. So what a look finds empty *behind* the fence stays empty, and discarding it loses nothing.
//! Against writes to the shared zero page, the range is write-protected as well (5.7).
//!
//! What a fence does **not** hold is the mappings themselves: munmap, mremap and mmap(MAP_FIXED) go
//! through, and what is then mapped at the same place is not fenced. No call discards only what is
//! still the registered mapping, so the owner has to promise that: [`Settled`].
//!
//! A fence ends when it is dropped; the descriptor's last close, also by SIGKILL, ends it as well. A
//! forked child has the descriptor too, until it executes another program or ends: as long as it
//! lives, the death of the one who fences lifts nothing.
//! Nothing here allocates.

#![expect(unsafe_code, reason = "userfaultfd has no safe wrapper, and empty memory is discarded")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{Advice, UserfaultfdFlags};
use rustix::process::{Pid, getpid};

use crate::own::{address, length};
use crate::pagemap::{Pagemap, Query, Run};
use crate::units::{PageIdx, PageRange, Pages};
use crate::urgency;

/// Addresses whose mappings stay: the promise that fencing needs. A copy is the same promise.
#[derive(Clone, Debug)]
pub struct Settled {
    pages: PageRange,
}

impl Settled {
    /// The mappings of `pages` stay.
    ///
    /// # Safety
    /// As long as this value or a copy of it is used for fences, no mapping in this range is unmapped, moved away or
    /// mapped over and its place taken by other memory: not by munmap, mremap and mmap(MAP_FIXED),
    /// nor by an allocator that calls these. Otherwise a discard may hit what has just come to be there.
    /// Unmapping for good, mprotect, madvise, mlock and fork are all fine, and so is whatever happens
    /// outside.
    #[must_use]
    pub const unsafe fn new(pages: PageRange) -> Self {
        Self { pages }
    }

    /// All mappings of this process stay.
    ///
    /// # Safety
    /// As for [`Settled::new`], for all of the process.
    #[must_use]
    pub const unsafe fn everywhere() -> Self {
        Self { pages: PageRange { start: PageIdx(0), end: PageIdx(1 << 51) } }
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }
}

/// What a fence keeps away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Whatever would add a page.
    Additions,
    /// That, and writes to pages that are there: the shared zero page can be discarded, too.
    AdditionsAndWrites,
}

/// A userfaultfd that also handles faults of the kernel on the program's behalf, and the view of the
/// same memory by which a fence is looked behind.
///
/// Both mean the memory of the process that opened them: in any other one, a forked child above all,
/// nothing is fenced and nothing is freed.
#[derive(Debug)]
pub struct Userfault {
    /// Nothing once a fence could not be lifted: closing it did that.
    file: Option<OwnedFd>,
    pagemap: Pagemap,
    opened_by: Pid,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

const UFFD_API: u64 = 0xaa;
const GROUP: u8 = 0xaa;
const MISSING: u64 = 1;
const WRITES: u64 = 2;

impl From<PageRange> for Range {
    fn from(pages: PageRange) -> Self {
        Self { start: pages.start.address(), len: pages.length().bytes().0 }
    }
}

impl Userfault {
    /// Opens one for this address space: by the system call (Linux 4.3), else by
    /// `/dev/userfaultfd` (6.1).
    ///
    /// # Errors
    /// `EPERM` or `EACCES` without `CAP_SYS_PTRACE`, `vm.unprivileged_userfaultfd=1` and access to
    /// `/dev/userfaultfd`; `ENOSYS` for a kernel without it; where `/proc` is not mounted.
    pub fn open() -> Result<Self> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: the descriptor stays within this type, which only ever fences what its owner
        // promised.
        let opened = unsafe { rustix::mm::userfaultfd(flags) };
        let file = opened.or_else(|error| Self::by_device().map_err(|_| error))?;
        let pagemap = Pagemap::open_own()?;
        let fault = Self { file: Some(file), pagemap, opened_by: getpid() };
        let api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        fault.ask::<{ opcode::read_write::<Api>(GROUP, 0x3f) }, _>(api)?;
        Ok(fault)
    }

    fn by_device() -> Result<OwnedFd> {
        /// `USERFAULTFD_IOC_NEW` of linux/userfaultfd.h.
        const NEW: libc::c_ulong = 0xaa00;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(c"/dev/userfaultfd", flags, Mode::empty())?;
        let wanted = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the request takes flags by value and touches no memory.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), NEW, wanted) };
        if made < 0 {
            return Err(Errno::PERM);
        }
        // SAFETY: the kernel has just made this descriptor for this call alone.
        Ok(unsafe { OwnedFd::from_raw_fd(made) })
    }

    /// Whether it can be used: in the process that opened it, unless a fence that could not be lifted
    /// in the ordinary way has closed it. Else another has to be opened.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.file.is_some() && self.opened_by == getpid()
    }

    /// The view of this memory, for looks without a fence.
    #[must_use]
    pub fn pagemap(&self) -> &Pagemap {
        &self.pagemap
    }

    /// Raises a fence around whole 2 MiB blocks of one private anonymous mapping.
    ///
    /// Costs some 5 us: two splits of the mapping, under the mmap lock for writing. Until the fence
    /// is dropped, mremap(2) across its borders fails before Linux 6.17, and calls that cannot wait
    /// for a page (a debugger's peek at memory that was never touched) fail with `EFAULT`.
    ///
    /// # Errors
    /// `EINVAL` outside of what is settled, and for memory that cannot be fenced: files, devices,
    /// droppable memory, holes. `EBUSY` where another userfaultfd is registered. `ENOMEM` at
    /// the limit on mappings. `EBADF` if it is not usable.
    pub fn fence<'a>(
        &'a mut self,
        settled: &'a Settled,
        pages: PageRange,
        against: Against,
    ) -> Result<Fence<'a>> {
        if !self.is_usable() {
            return Err(Errno::BADF);
        }
        if settled.pages.intersection(pages) != pages || pages.is_empty() {
            return Err(Errno::INVAL);
        }
        let mode = match against {
            Against::Additions => MISSING,
            Against::AdditionsAndWrites => MISSING | WRITES,
        };
        let request = Register { range: pages.into(), mode, ioctls: 0 };
        self.ask::<{ opcode::read_write::<Register>(GROUP, 0) }, _>(request)?;
        Ok(Fence { fault: self, pages, against, settled, second: None })
    }

    fn ask<const CODE: Opcode, T>(&self, mut request: T) -> Result<()> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        // SAFETY: each caller pairs the code with the type that linux/userfaultfd.h gives for it.
        let updater = unsafe { Updater::<CODE, T>::new(&mut request) };
        // SAFETY: the file is a userfaultfd; the request lives as long as the call. What the
        // requests of this module do (register, protect, let go, wake) changes no byte.
        unsafe { ioctl(file, updater) }
    }
}

/// A range to which nobody can add a page, until this is dropped.
///
/// Who raised it must not touch missing pages of it himself: he would wait for himself.
#[derive(Debug)]
pub struct Fence<'a> {
    fault: &'a mut Userfault,
    pages: PageRange,
    against: Against,
    /// The promise lasts as long as the fence.
    settled: &'a Settled,
    /// Who frees along.
    second: Option<Arc<Second>>,
}

impl Fence<'_> {
    /// The fenced pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Looks at the fenced `part` and frees the tables of all its 2 MiB blocks that hold nothing
    /// (against writes, too: nothing but the zero page), where the kernel frees tables on a large
    /// `MADV_DONTNEED` (`CONFIG_PT_RECLAIM`, 6.14). Tables of higher levels stay. (No other call
    /// does behind a fence: mremap(2) moves a fenced mapping page by page and leaves the tables.)
    /// Returns how far it came: less far than the end of `part` if `runs`, its work space, was full.
    /// That must not lie in the fenced range.
    ///
    /// Costs some 0.5 us a table to look at (twice against writes) and 0.4 us to free. How many were
    /// freed, only `VmPTE` tells.
    ///
    /// # Errors
    /// `EINVAL` if `part` is not fenced or not made of whole blocks, or `runs` is, and for locked
    /// memory; `EBADF` in a forked child; else those of madvise(2). What was freed before stays freed.
    pub fn free_empty(&self, part: PageRange, runs: &mut [Run]) -> Result<PageIdx> {
        if !self.fault.is_usable() {
            return Err(Errno::BADF);
        }
        let look = Look { pagemap: &self.fault.pagemap, query: self.query(), fenced: self.pages };
        look.at_gaps(part, runs, |gap| self.free_gap(gap))
    }

    /// Lets a second thread free in `part` as well. The fence then stays up until what this returns has
    /// been dropped: whoever drops the fence first waits for that.
    ///
    /// # Errors
    /// `EINVAL` if `part` is not fenced, or fenced against writes too; `EBUSY` if there is a second, or
    /// this one is at another fence; `EBADF` if either belongs to another process.
    pub fn share(&mut self, second: &Arc<Second>, part: PageRange) -> Result<Shared> {
        if self.against != Against::Additions || self.pages.intersection(part) != part {
            return Err(Errno::INVAL);
        }
        if !self.fault.is_usable() || second.opened_by != getpid() {
            return Err(Errno::BADF);
        }
        // Acquire: with all that it did at the last fence.
        if self.second.is_some() || second.busy.swap(true, Ordering::Acquire) {
            return Err(Errno::BUSY);
        }
        self.second = Some(Arc::clone(second));
        Ok(Shared { second: Arc::clone(second), part, settled: self.settled.clone() })
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
            return free(gap);
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
            free(PageRange { start: left.start, end: held.start })?;
            left.start = held.end;
        }
        Ok(())
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
        // Acquire: what the second freed was behind this fence.
        while self.second.as_ref().is_some_and(|second| second.busy.load(Ordering::Acquire)) {
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
}

/// A part of a fenced range for a second thread: the fence stays up until this is dropped. What the
/// thread itself uses must not lie in the fenced range: it would wait for itself.
#[derive(Debug)]
pub struct Shared {
    second: Arc<Second>,
    part: PageRange,
    /// The promise lasts as long as this, too.
    settled: Settled,
}

impl Shared {
    /// As [`Fence::free_empty`] does in its range.
    ///
    /// # Errors
    /// As there.
    pub fn free_empty(&self, part: PageRange, runs: &mut [Run]) -> Result<PageIdx> {
        // In a forked child no fence is up.
        if self.second.opened_by != getpid() {
            return Err(Errno::BADF);
        }
        let fenced = self.part.intersection(self.settled.pages);
        Look { pagemap: &self.second.pagemap, query: Query::Held, fenced }.at_gaps(part, runs, free)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Release: all that was freed comes before the fence's end.
        self.second.busy.store(false, Ordering::Release);
    }
}

/// A look behind a fence.
struct Look<'a> {
    pagemap: &'a Pagemap,
    query: Query,
    fenced: PageRange,
}

impl Look<'_> {
    /// Calls for each run of whole blocks in `part` that hold nothing the look is for; returns how far
    /// it came.
    fn at_gaps(
        &self,
        part: PageRange,
        runs: &mut [Run],
        mut at_gap: impl FnMut(PageRange) -> Result<()>,
    ) -> Result<PageIdx> {
        let fenced = self.fenced.intersection(part) == part;
        if part.blocks() != part || !fenced || runs.is_empty() || self.covers(runs) {
            return Err(Errno::INVAL);
        }
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

/// Frees the tables of fenced blocks that were seen empty behind the fence.
fn free(empty: PageRange) -> Result<()> {
    if empty.is_empty() {
        return Ok(());
    }
    // SAFETY: the range is fenced, and was seen since to hold nothing that is not zero; no thread can
    // have changed that, and `Settled` promises that the mapping is still the same. Fence and look are
    // of this memory: both callers have asked whether this is the process that opened them.
    unsafe { rustix::mm::madvise(address(empty.start), length(empty), Advice::LinuxDontNeed) }
}
