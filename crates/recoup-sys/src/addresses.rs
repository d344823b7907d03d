//! Addresses that are set apart, and the memory that is put behind parts of them.
//!
//! A forked child has none of it (`MADV_DONTFORK`), so what is there has one process. The child's
//! copy of this value does nothing: elsewhere in the child, other memory may have these addresses.
//! Unless children are to have it: see [`Forking`].

#![expect(unsafe_code, reason = "memory is mapped here at addresses that are set apart")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::own::{Backing, address, length};
use crate::region::hugetlb_of;
use crate::units::{Bytes, PageIdx, PageRange};

/// Addresses of this process that nobody else maps anything at, until it is dropped.
#[derive(Debug)]
pub struct Addresses {
    /// As the kernel gave them, larger than what is used by the alignment's slack.
    mapping: PageRange,
    pages: PageRange,
    /// Whose addresses these are.
    home: Home,
    forking: Forking,
}

/// What a forked child gets of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forking {
    /// Nothing.
    #[default]
    Withheld,
    /// A copy, made as either writes, like that of any other private memory. Only private memory that
    /// is not hugetlb can be had so.
    Inherited,
}

/// What is put behind addresses.
#[derive(Clone, Copy, Debug)]
pub enum Memory<'a> {
    /// Private anonymous memory, with huge pages where the host allows them (`MADV_HUGEPAGE`).
    Private,
    /// Private hugetlb pages of this size, not reserved: see [`populate`](crate::own::populate).
    HugeTlb(Bytes),
    /// A file, shared with whoever else maps it.
    File {
        /// A memfd, a file, or a device that can be mapped.
        file: BorrowedFd<'a>,
        /// The first byte of it.
        offset: Bytes,
        /// The pages of a hugetlb file; `None` for others.
        huge: Option<Bytes>,
    },
}

impl Addresses {
    /// Sets `length` bytes of addresses apart, at a multiple of `alignment`, a power of two. They
    /// cost no memory.
    ///
    /// # Errors
    /// `ENOMEM` past the limit of the address space (`ulimit -v`).
    pub fn reserve(length: Bytes, alignment: Bytes, forking: Forking) -> Result<Self> {
        let subject = || format!("{} bytes of addresses", length.0);
        let too_long = |_| Error::os("set apart", subject(), Errno::NOMEM);
        let slack = length.0.saturating_add(alignment.0);
        let slack = usize::try_from(slack).map_err(too_long)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let home = Home::new()?;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), slack, ProtFlags::empty(), flags)
        }
        .map_err(|e| Error::os("set apart", subject(), e))?;
        let first = start.expose_provenance() as u64;
        let mapping =
            PageRange::starting_at(PageIdx::containing(first), Bytes(slack as u64).whole_pages());
        let aligned = PageIdx::containing(first.next_multiple_of(alignment.0));
        let pages = PageRange::starting_at(aligned, length.whole_pages());
        let new = Self { mapping, pages, home, forking };
        new.keep_from_children(mapping)?;
        Ok(new)
    }

    /// The addresses.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// The byte at this distance from the first address.
    ///
    /// # Panics
    /// If it lies behind the last one.
    #[must_use]
    pub fn byte(&self, offset: Bytes) -> NonNull<u8> {
        assert!(offset < self.pages.length().bytes(), "past the addresses that are set apart");
        let start = usize::try_from(self.pages.start.address() + offset.0).unwrap_or(usize::MAX);
        NonNull::new(std::ptr::with_exposed_provenance_mut(start)).unwrap_or(NonNull::dangling())
    }

    /// Puts memory behind a part of them.
    ///
    /// # Errors
    /// `EINVAL` for addresses that are not set apart, and for memory that children cannot inherit where
    /// they should; `ECHILD` in a forked child that has none; else those of mmap(2). Nothing, or what was
    /// there, is behind the addresses then.
    ///
    /// # Safety
    /// Nobody uses what was behind these addresses before, and nobody uses what is there now when
    /// this value is dropped.
    pub unsafe fn map(&self, part: PageRange, memory: Memory<'_>) -> Result<()> {
        self.check("map memory at", part)?;
        if self.forking == Forking::Inherited && !matches!(memory, Memory::Private) {
            return Err(Error::os("let children inherit", part.to_string(), Errno::INVAL));
        }
        let (start, bytes) = (address(part.start), length(part));
        // Nobody can use it before it is kept from children.
        let protection = ProtFlags::empty();
        let private = MapFlags::FIXED | MapFlags::PRIVATE | MapFlags::NORESERVE;
        match memory {
            // SAFETY: the caller promises that nobody uses what is replaced.
            Memory::Private => unsafe {
                rustix::mm::mmap_anonymous(start, bytes, protection, private)
            },
            // SAFETY: as above.
            Memory::HugeTlb(size) => unsafe {
                rustix::mm::mmap_anonymous(start, bytes, protection, private | hugetlb_of(size))
            },
            Memory::File { file, offset, .. } => {
                let shared = MapFlags::FIXED | MapFlags::SHARED | MapFlags::NORESERVE;
                // SAFETY: as above.
                unsafe { rustix::mm::mmap(start, bytes, protection, shared, file, offset.0) }
            }
        }
        .map_err(|e| Error::os("map memory at", part.to_string(), e))?;
        if matches!(Backing::from(memory), Backing::Private | Backing::Shared) {
            // Refused by kernels without huge pages, where it makes no difference.
            // SAFETY: advice that changes no byte.
            let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxHugepage) };
        }
        self.keep_from_children(part)?;
        let usable = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: these addresses are this value's own.
        unsafe { rustix::mm::mprotect(start, bytes, usable) }
            .map_err(|e| Error::os("make usable", part.to_string(), e))
    }

    /// Takes the memory behind a part of them away, which gives back what has no other user. Other
    /// threads map and fault meanwhile: the mmap lock is held for writing only when nothing is left to
    /// free.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    ///
    /// # Safety
    /// Nobody uses what was behind these addresses.
    pub unsafe fn unmap(&self, part: PageRange) -> Result<()> {
        self.check("unmap", part)?;
        let flags = MapFlags::FIXED | MapFlags::PRIVATE | MapFlags::NORESERVE;
        let (start, bytes) = (address(part.start), length(part));
        // What it refuses (locked memory; hugetlb pages before Linux 5.18) the mapping frees.
        // SAFETY: the caller promises that nobody uses what was there.
        let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxDontNeed) };
        // SAFETY: as above.
        unsafe { rustix::mm::mmap_anonymous(start, bytes, ProtFlags::empty(), flags) }
            .map_err(|e| Error::os("unmap", part.to_string(), e))?;
        self.keep_from_children(part)
    }

    /// Whether they are this process's: the one that set them apart, or a forked child that has
    /// [inherited](Forking::Inherited) a copy.
    #[must_use]
    pub fn is_of_this_process(&self) -> bool {
        self.forking == Forking::Inherited || self.home.is_here()
    }

    fn check(&self, operation: &'static str, part: PageRange) -> Result<()> {
        let wrong = if !self.is_of_this_process() {
            Errno::CHILD
        } else if part.is_empty() || self.pages.intersection(part) != part {
            Errno::INVAL
        } else {
            return Ok(());
        };
        Err(Error::os(operation, part.to_string(), wrong))
    }

    /// A fork between mapping and this call gives a child the mapping all the same, which it cannot
    /// touch.
    fn keep_from_children(&self, part: PageRange) -> Result<()> {
        if self.forking == Forking::Inherited {
            return Ok(());
        }
        // SAFETY: advice that changes no byte of this process.
        unsafe { rustix::mm::madvise(address(part.start), length(part), Advice::LinuxDontFork) }
            .map_err(|e| Error::os("keep from children", part.to_string(), e))
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            return;
        }
        let start: *mut c_void = address(self.mapping.start);
        // SAFETY: exactly the mapping that `reserve` made. Who put memory there had to make sure that
        // nobody uses it when this is dropped.
        let result = unsafe { rustix::mm::munmap(start, length(self.mapping)) };
        debug_assert!(result.is_ok(), "munmap of own addresses: {result:?}");
    }
}

/// How such memory is given back.
impl From<Memory<'_>> for Backing {
    fn from(memory: Memory<'_>) -> Self {
        match memory {
            Memory::Private => Self::Private,
            Memory::HugeTlb(size) => Self::HugeTlbPrivate(size),
            Memory::File { huge: None, .. } => Self::Shared,
            Memory::File { huge: Some(size), .. } => Self::HugeTlbShared(size),
        }
    }
}
