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
//! A fence ends when it is dropped; the descriptor's last close, also by SIGKILL, ends it as well.
//! Nothing here allocates.

#![expect(unsafe_code, reason = "userfaultfd has no safe wrapper, and empty memory is discarded")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{Advice, UserfaultfdFlags};

use crate::own::{address, length};
use crate::pagemap::{Pagemap, Query, Run};
use crate::units::{PageIdx, PageRange};

/// Addresses whose mappings stay: the promise that fencing needs.
#[derive(Debug)]
pub struct Settled {
    pages: PageRange,
}

impl Settled {
    /// The mappings of `pages` stay.
    ///
    /// # Safety
    /// As long as this value is used for fences, no mapping in this range is unmapped, moved away or
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

/// A userfaultfd that also handles faults of the kernel on the program's behalf.
#[derive(Debug)]
pub struct Userfault {
    file: OwnedFd,
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
    /// `/dev/userfaultfd`; `ENOSYS` for a kernel without it.
    pub fn open() -> Result<Self> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: the descriptor stays within this type, which only ever fences what its owner
        // promised.
        let opened = unsafe { rustix::mm::userfaultfd(flags) };
        let fault = Self { file: opened.or_else(|error| Self::by_device().map_err(|_| error))? };
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

    /// Raises a fence around whole 2 MiB blocks of one private anonymous mapping.
    ///
    /// Costs some 5 us: two splits of the mapping, under the mmap lock for writing. Until the fence
    /// is dropped, mremap(2) across its borders fails before Linux 6.17, and calls that cannot wait
    /// for a page (a debugger's peek at memory that was never touched) fail with `EFAULT`.
    ///
    /// # Errors
    /// `EINVAL` outside of what is settled, and for memory that cannot be fenced: files, devices,
    /// droppable memory, holes. `EBUSY` where another userfaultfd is registered. `ENOMEM` at
    /// the limit on mappings.
    pub fn fence<'a>(
        &'a self,
        settled: &Settled,
        pages: PageRange,
        against: Against,
    ) -> Result<Fence<'a>> {
        if settled.pages.intersection(pages) != pages || pages.is_empty() {
            return Err(Errno::INVAL);
        }
        let mode = match against {
            Against::Additions => MISSING,
            Against::AdditionsAndWrites => MISSING | WRITES,
        };
        let request = Register { range: pages.into(), mode, ioctls: 0 };
        self.ask::<{ opcode::read_write::<Register>(GROUP, 0) }, _>(request)?;
        Ok(Fence { fault: self, pages, against })
    }

    fn ask<const CODE: Opcode, T>(&self, mut request: T) -> Result<()> {
        // SAFETY: each caller pairs the code with the type that linux/userfaultfd.h gives for it.
        let updater = unsafe { Updater::<CODE, T>::new(&mut request) };
        // SAFETY: the file is a userfaultfd; the request lives as long as the call. What the
        // requests of this module do (register, protect, let go, wake) changes no byte.
        unsafe { ioctl(&self.file, updater) }
    }
}

/// A range to which nobody can add a page, until this is dropped.
#[derive(Debug)]
pub struct Fence<'a> {
    fault: &'a Userfault,
    pages: PageRange,
    against: Against,
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
    /// does behind a fence: mremap(2) moves a fenced mapping page by page and leaves the tables.) Returns how far it came: less far than the
    /// end of `part` if `runs`, its work space, was full.
    ///
    /// Costs some 0.5 us a table to look at and 0.4 us to free. How many were freed, only `VmPTE` tells.
    ///
    /// # Errors
    /// `EINVAL` if `part` is not fenced or not made of whole blocks, and for locked memory; else those of
    /// madvise(2). What was freed before stays freed.
    pub fn free_empty(
        &self,
        pagemap: &Pagemap,
        part: PageRange,
        runs: &mut [Run],
    ) -> Result<PageIdx> {
        if part.blocks() != part || self.pages.intersection(part) != part || runs.is_empty() {
            return Err(Errno::INVAL);
        }
        let query = self.prepare(part)?;
        let looked = pagemap.find(query, part, runs)?;
        // Not to be taken for looked at: a block that the look left in the middle.
        let until = looked.looked_until.block_start().max(part.start).min(part.end);
        let mut start = part.start;
        for run in looked.runs {
            let held = run.range().blocks();
            Self::free(PageRange { start, end: held.start })?;
            start = start.max(held.end);
        }
        Self::free(PageRange { start, end: until })?;
        Ok(until.max(start).min(part.end))
    }

    /// Keeps writers from what is there already, if this fence is to.
    fn prepare(&self, part: PageRange) -> Result<Query> {
        if self.against == Against::Additions {
            return Ok(Query::Held);
        }
        let request = WriteProtect { range: part.into(), mode: 1 };
        self.fault.ask::<{ opcode::read_write::<WriteProtect>(GROUP, 6) }, _>(request)?;
        Ok(Query::HeldNotZero)
    }

    /// Frees the tables of fenced blocks that were seen empty behind the fence.
    fn free(empty: PageRange) -> Result<()> {
        if empty.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is fenced, and was seen since to hold nothing that is not zero; no
        // thread can have changed that, and `Settled` promises that the mapping is still the same.
        unsafe { rustix::mm::madvise(address(empty.start), length(empty), Advice::LinuxDontNeed) }
    }
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        let range = Range::from(self.pages);
        // Both fail only if the mapping is gone, and its fence with it. One who went to sleep while
        // the first was at work is woken by the second.
        let _ = self.fault.ask::<{ opcode::read::<Range>(GROUP, 1) }, _>(range);
        let _ = self.fault.ask::<{ opcode::read::<Range>(GROUP, 2) }, _>(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;
    use crate::region::Region;
    use crate::units::BLOCK;

    #[test]
    fn what_is_not_settled_is_not_fenced() {
        let Ok(fault) = Userfault::open() else {
            return;
        };
        let region = Region::new(Bytes(2 * BLOCK.0)).unwrap();
        let pages = region.pages();
        let first = PageRange::starting_at(pages.start, BLOCK.whole_pages());
        // SAFETY: the region is this test's own.
        let settled = unsafe { Settled::new(first) };
        let refused = fault.fence(&settled, pages, Against::Additions);
        assert_eq!(refused.map(|_| ()), Err(Errno::INVAL));
        assert!(fault.fence(&settled, first, Against::Additions).is_ok());
    }

    #[test]
    fn what_is_held_stays() {
        let Ok(fault) = Userfault::open() else {
            return;
        };
        let mut region = Region::new(Bytes(8 * BLOCK.0)).unwrap();
        let block = crate::Pages(512);
        region
            .advise(crate::Pages(0), crate::Pages(8 * 512), crate::region::OwnAdvice::BasePages)
            .ok();
        for index in 0..8 {
            region.touch(crate::Pages(index * block.0), crate::Pages(1));
        }
        let empty = crate::region::OwnAdvice::Discard;
        region.advise(crate::Pages(0), crate::Pages(5 * 512), empty).unwrap();
        // SAFETY: the region is this test's own.
        let settled = unsafe { Settled::new(region.pages()) };
        let Ok(pagemap) = Pagemap::of_self() else { return };
        let mut runs = [Run::default(); 8];
        if pagemap.first_table(region.pages()).is_err() {
            return;
        }
        let fence = fault.fence(&settled, region.pages(), Against::Additions).unwrap();
        let until = fence.free_empty(&pagemap, region.pages(), &mut runs);
        assert_eq!(until, Ok(region.pages().end));
        drop(fence);
        assert_eq!(region.peek(5 << 21), 1);
        assert_eq!(region.peek(0), 0);
    }
}
