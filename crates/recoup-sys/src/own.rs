//! Memory of this process: what its owner may throw away, and what the kernel tells about it.
//!
//! [`Released`] carries the one promise that no check can replace: that nobody needs these bytes any
//! more. Everything else here is safe, since it changes no byte.

#![expect(unsafe_code, reason = "the owner's promise is made here, and acted on")]

use std::ffi::c_void;
use std::marker::PhantomData;

use rustix::mm::Advice;

use crate::error::{Error, Result};
use crate::units::{Bytes, PAGE_BYTES, PAGE_SHIFT, PAGES_PER_BLOCK, PageIdx, PageRange, Pages};

/// What a range of memory consists of, which decides how it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory: `MADV_DONTNEED`.
    Private,
    /// Shared memory (memfd, tmpfs, System V, shared anonymous): `MADV_REMOVE`, which punches a
    /// hole for everybody who maps it.
    Shared,
    /// Hugetlb pages of this size, mapped privately: `MADV_DONTNEED` (Linux 5.18), whole pages only.
    HugeTlbPrivate(Bytes),
    /// Hugetlb pages of this size, shared: `MADV_REMOVE`, whole pages only.
    HugeTlbShared(Bytes),
}

impl Backing {
    /// The unit in which such memory can be given back.
    #[must_use]
    pub const fn page_size(self) -> Bytes {
        match self {
            Self::Private | Self::Shared => Bytes(PAGE_BYTES as u64),
            Self::HugeTlbPrivate(size) | Self::HugeTlbShared(size) => size,
        }
    }
}

/// Whole pages of this process's memory whose contents nobody needs any more.
#[derive(Debug)]
pub struct Released<'a> {
    pages: PageRange,
    backing: Backing,
    owner: PhantomData<&'a mut [u8]>,
}

impl<'a> Released<'a> {
    /// The whole pages among `length` bytes from `start`. Pages that the range covers only in part
    /// stay as they are.
    ///
    /// # Safety
    /// Until whatever this is handed to returns (or, if it works in the background, says that it is
    /// done), all of these pages are mapped with `backing`, and
    /// nobody reads or writes them: they belong to the caller (of shared memory, in all processes),
    /// no reference to them exists, and their contents may become zero.
    #[must_use]
    pub unsafe fn new(start: *mut u8, length: usize, backing: Backing) -> Self {
        let unit = backing.page_size().0;
        let first = start.expose_provenance() as u64;
        let end = first.saturating_add(length as u64) / unit * unit;
        let start = PageIdx::containing(first.next_multiple_of(unit).min(end));
        let pages = PageRange { start, end: PageIdx::containing(end) };
        Self { pages, backing, owner: PhantomData }
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// What they consist of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Cuts it in two at `page`, which goes to the second part; the first is empty if `page` lies
    /// before it, the second if `page` lies behind.
    #[must_use]
    pub fn split_at(self, page: PageIdx) -> (Self, Self) {
        let cut = page.max(self.pages.start).min(self.pages.end);
        let part = |pages| Self { pages, backing: self.backing, owner: PhantomData };
        (part(PageRange { end: cut, ..self.pages }), part(PageRange { start: cut, ..self.pages }))
    }

    /// Gives the pages back to the kernel; they read as zero from then on.
    ///
    /// Costs about 0.1 us a page (4 KiB), or 7 us a huge page.
    ///
    /// # Errors
    /// `EINVAL` for locked memory, or where `backing` is not what they consist of; `ENOMEM` if some
    /// of them are not mapped. What was given back before the error stays given back.
    pub fn discard(self) -> Result<()> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let advice = match self.backing {
            Backing::Private | Backing::HugeTlbPrivate(_) => Advice::LinuxDontNeed,
            Backing::Shared | Backing::HugeTlbShared(_) => Advice::LinuxRemove,
        };
        // SAFETY: whoever made this promised that these pages are theirs and may become zero.
        unsafe { rustix::mm::madvise(address(self.pages.start), length(self.pages), advice) }
            .map_err(|e| Error::os("discard", self.pages.to_string(), e))
    }
}

/// Ages a page of this process (`MADV_COLD`, Linux 5.4). If it is mapped by itself but belongs to a
/// huge page, that is split, and what of it is no longer mapped goes back at once: 120 to 220 us.
///
/// Success says nothing about that: a huge page that is locked, pinned or shared with a forked
/// child stays as it is.
///
/// # Errors
/// `EINVAL` for locked or hugetlb memory, `ENOMEM` for unmapped memory.
pub fn age(page: PageIdx) -> Result<()> {
    let pages = PageRange::starting_at(page, Pages(1));
    age_bare(pages).map_err(|e| Error::os("age", page.to_string(), e))
}

/// The same for some pages of a huge page, with a bare `errno`: for a helper that must not allocate.
///
/// # Errors
/// As for [`age`].
pub fn age_bare(pages: PageRange) -> rustix::io::Result<()> {
    // SAFETY: MADV_COLD changes no byte, whosever the memory is.
    unsafe { rustix::mm::madvise(address(pages.start), length(pages), Advice::LinuxCold) }
}

/// Puts memory behind pages that have none, as a first write would (`MADV_POPULATE_WRITE`, Linux
/// 5.14): no byte changes. Costs 50 to 100 us a huge page, which is mostly zeroing.
///
/// # Errors
/// Where a write would be met by SIGBUS, above all for want of free hugetlb pages: `EFAULT` or
/// `ENOMEM`; `EINVAL` before Linux 5.14. Some of the pages may have memory then.
pub fn populate(pages: PageRange) -> Result<()> {
    // SAFETY: populating changes no byte, whosever the memory is.
    unsafe { rustix::mm::madvise(address(pages.start), length(pages), Advice::LinuxPopulateWrite) }
        .map_err(|e| Error::os("put memory behind", pages.to_string(), e))
}

/// What may be done with memory that changes none of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `MADV_COLD` (Linux 5.4): among the first to go when memory is short.
    Cold,
    /// `MADV_PAGEOUT` (Linux 5.4): to swap, if there is any.
    PageOut,
    /// `MADV_COLLAPSE` (Linux 6.1): huge pages, made now.
    Collapse,
}

/// Gives a hint about pages of this process.
///
/// # Errors
/// `EINVAL` where such memory takes no such hint, or the kernel is too old; for [`Hint::Collapse`] also
/// where huge pages are switched off, `ENOMEM` or `EAGAIN` where there is no memory for one.
pub fn hint(pages: PageRange, hint: Hint) -> Result<()> {
    let advice = match hint {
        Hint::Cold => libc::MADV_COLD,
        Hint::PageOut => libc::MADV_PAGEOUT,
        Hint::Collapse => libc::MADV_COLLAPSE,
    };
    // SAFETY: none of these changes a byte, whosever the memory is.
    if unsafe { libc::madvise(address(pages.start), length(pages), advice) } == 0 {
        return Ok(());
    }
    Err(Error::os("advise on", pages.to_string(), std::io::Error::last_os_error()))
}

/// Which pages of the 2 MiB block from `block` on are in memory, or in the swap cache (mincore(2)).
/// Costs 1 us, and needs no privilege; 100 us where some of the block is not mapped at all.
#[must_use]
pub fn resident(block: PageIdx) -> [bool; PAGES_PER_BLOCK] {
    let mut answer = [false; PAGES_PER_BLOCK];
    if !residency(block.block_start(), &mut answer) {
        // Refused as a whole: each page by itself, of which those that are not mapped are absent.
        for (index, page) in answer.iter_mut().enumerate() {
            residency(block.block_start() + Pages(index as u64), std::slice::from_mut(page));
        }
    }
    answer
}

/// Asks for as many pages from `start` on as the answer has, all absent where the kernel refuses.
fn residency(start: PageIdx, answer: &mut [bool]) -> bool {
    let mut bytes = [0_u8; PAGES_PER_BLOCK];
    let count = answer.len().min(PAGES_PER_BLOCK);
    // SAFETY: the kernel writes a byte for each page asked about, of which there are at most as many
    // as the array has.
    let result = unsafe { libc::mincore(address(start), count << PAGE_SHIFT, bytes.as_mut_ptr()) };
    answer.iter_mut().zip(bytes).for_each(|(page, byte)| *page = byte & 1 == 1);
    result == 0
}

pub(crate) fn address(page: PageIdx) -> *mut c_void {
    let number = usize::try_from(page.address()).unwrap_or(usize::MAX);
    std::ptr::with_exposed_provenance_mut(number)
}

pub(crate) fn length(pages: PageRange) -> usize {
    usize::try_from(pages.length().bytes().0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BLOCK;

    fn released(first: usize, length: usize, backing: Backing) -> PageRange {
        // SAFETY: nothing is done to the pages.
        unsafe { Released::new(std::ptr::without_provenance_mut(first), length, backing) }.pages()
    }

    #[test]
    fn only_whole_pages_are_released() {
        let pages = |first, length| released(first, length, Backing::Private);
        assert_eq!(pages(0x1001, 0x2fff), PageRange { start: PageIdx(2), end: PageIdx(4) });
        assert!(pages(0x1001, 0x0ffe).is_empty());
        assert!(pages(0x1000, 0).is_empty());
        assert_eq!(pages(0x1000, 0x1000).length(), Pages(1));
    }

    #[test]
    fn only_whole_hugetlb_pages_are_released() {
        let huge = Backing::HugeTlbPrivate(BLOCK);
        assert_eq!(released(0x1000, 0x40_0000, huge).length(), Pages(512));
        assert!(released(0x1000, 0x20_0000, huge).is_empty());
    }
}
