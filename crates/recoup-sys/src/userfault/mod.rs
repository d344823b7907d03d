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

#![expect(unsafe_code, reason = "userfaultfd has no safe wrapper")]

mod fence;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::UserfaultfdFlags;
use rustix::process::{Pid, getpid};

use crate::pagemap::Pagemap;
use crate::reserved::{HugePages, TableReclaim};
use crate::units::{PageIdx, PageRange};

pub use fence::{Against, Fence, Second, Shared};

/// Addresses whose mappings stay: the promise that fencing needs. A copy is the same promise.
#[derive(Clone, Debug)]
pub struct Settled {
    pages: PageRange,
    /// All there is to say of the mappings, where they are plain.
    plain: Option<HugePages>,
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
        Self { pages, plain: None }
    }

    /// The mappings of `pages` stay, and are plain: then their tables can also be freed by mapping them
    /// anew ([`TableReclaim::Remap`]), on kernels that free none on a large discard (before Linux 6.14).
    ///
    /// # Safety
    /// As for [`Settled::new`]. All of it is private anonymous memory, readable and writable, with no other
    /// attributes than `huge_pages`, no memory policy either, and stays so: no mprotect, no mlock or mlockall
    /// (locked memory would be unlocked in silence), no advice that lasts.
    ///
    /// Mapped with `MAP_NORESERVE`, by this process itself (not inherited by fork), and not moved by mremap:
    /// else what is mapped anew never joins the rest, and the mapping falls to as many pieces as there are
    /// gaps, up to the limit on mappings.
    #[must_use]
    pub const unsafe fn plain(pages: PageRange, huge_pages: HugePages) -> Self {
        Self { pages, plain: Some(huge_pages) }
    }

    /// All mappings of this process stay.
    ///
    /// # Safety
    /// As for [`Settled::new`], for all of the process.
    #[must_use]
    pub const unsafe fn everywhere() -> Self {
        Self { pages: PageRange { start: PageIdx(0), end: PageIdx(1 << 51) }, plain: None }
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Whether tables can be freed there in this way.
    #[must_use]
    pub fn allows(&self, by: TableReclaim) -> bool {
        by == TableReclaim::Discard || self.plain.is_some()
    }
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
    /// Who frees behind the fence as well.
    second: Option<Arc<Second>>,
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
        let fault = Self { file: Some(file), pagemap, opened_by: getpid(), second: None };
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

    /// Raises a fence around whole 2 MiB blocks of one private anonymous mapping, behind which tables are
    /// freed `by` what this kernel needs.
    ///
    /// Costs some 5 us: two splits of the mapping, under the mmap lock for writing. Until the fence
    /// is dropped, mremap(2) across its borders fails before Linux 6.17, and calls that cannot wait
    /// for a page (a debugger's peek at memory that was never touched) fail with `EFAULT`.
    ///
    /// # Errors
    /// `EINVAL` outside of what is settled, by mapping anew what is not promised to be plain, and for memory that cannot be fenced: files, devices,
    /// droppable memory, holes. `EBUSY` where another userfaultfd is registered, or
    /// while a second thread is behind a fence that was forgotten. `ENOMEM` at
    /// the limit on mappings. `EBADF` if it is not usable.
    pub fn fence<'a>(
        &'a mut self,
        settled: &'a Settled,
        pages: PageRange,
        against: Against,
        by: TableReclaim,
    ) -> Result<Fence<'a>> {
        if !self.is_usable() {
            return Err(Errno::BADF);
        }
        let promised = settled.pages.intersection(pages) == pages && settled.allows(by);
        if !promised || pages.is_empty() {
            return Err(Errno::INVAL);
        }
        // Of a fence that was forgotten, which must not come down now.
        if self.second.as_ref().is_some_and(|second| second.is_busy()) {
            return Err(Errno::BUSY);
        }
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        register(file, pages, against)?;
        self.second = None;
        Ok(Fence::around(self, settled, pages, against, by))
    }

    fn ask<const CODE: Opcode, T>(&self, request: T) -> Result<()> {
        ask::<CODE, T>(self.file.as_ref().ok_or(Errno::BADF)?, request)
    }
}

fn ask<const CODE: Opcode, T>(file: &OwnedFd, mut request: T) -> Result<()> {
    // SAFETY: each caller pairs the code with the type that linux/userfaultfd.h gives for it.
    let updater = unsafe { Updater::<CODE, T>::new(&mut request) };
    // SAFETY: the file is a userfaultfd, of this module's own; the request lives as long as the call. What
    // the requests of this module do (register, protect, let go, wake) changes no byte.
    unsafe { ioctl(file, updater) }
}

/// Registers pages: the fence is up.
fn register(file: &OwnedFd, pages: PageRange, against: Against) -> Result<()> {
    let mode = match against {
        Against::Additions => MISSING,
        Against::AdditionsAndWrites => MISSING | WRITES,
    };
    let request = Register { range: pages.into(), mode, ioctls: 0 };
    ask::<{ opcode::read_write::<Register>(GROUP, 0) }, _>(file, request)
}
