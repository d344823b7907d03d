//! `/proc/PID/pagemap`: one 64-bit word for each page of an address space, and the `PAGEMAP_SCAN`
//! ioctl (Linux 6.7), which finds page tables
//! (Documentation/admin-guide/mm/pagemap.rst).
//!
//! # How long the target waits
//! Both hold the target's mmap lock for reading while they walk its page tables. A `read` lets it
//! go every 2 MiB; a scan keeps it until it returns, so [`Pagemap::find_tables`] and
//! [`Pagemap::find_held`] are bounded by [`SCAN_MAX_ENTRIES`] entries and [`SCAN_MAX_SPAN`] of
//! address space a call.

#![expect(unsafe_code, reason = "PAGEMAP_SCAN has no safe wrapper")]

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::error::{Error, Result};
use crate::units::{Bytes, PageIdx, PageRange, Pages, Pfn};

/// What one word of `pagemap` says about a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    const PFN_MASK: u64 = (1 << 55) - 1;
    /// Bit 56: mapped by this process alone (Linux 4.2).
    pub const EXCLUSIVE: u64 = 1 << 56;
    /// Bit 61: page of a file or of shared memory.
    pub const FILE: u64 = 1 << 61;
    /// Bit 62: swapped out, under migration, or a marker.
    pub const SWAPPED: u64 = 1 << 62;
    /// Bit 63: present in memory.
    pub const PRESENT: u64 = 1 << 63;

    /// Whether any of these bits is set.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// What of a word says something about a page; nothing if there is none.
    const fn known_bits(word: u64) -> u64 {
        let known = Self::PFN_MASK | Self::EXCLUSIVE | Self::FILE | Self::SWAPPED | Self::PRESENT;
        if word & (Self::PRESENT | Self::SWAPPED) == 0 { 0 } else { word & known }
    }

    /// Whether the page is in memory and belongs to no file.
    #[must_use]
    pub const fn is_present_anonymous(self) -> bool {
        self.0 & (Self::PRESENT | Self::FILE) == Self::PRESENT
    }

    /// The frame of a page that is present. Nothing where it is absent, or where the kernel hides
    /// frame numbers for want of `CAP_SYS_ADMIN`.
    #[must_use]
    pub const fn frame(self) -> Option<Pfn> {
        let pfn = self.0 & Self::PFN_MASK;
        if self.has(Self::PRESENT) && pfn != 0 { Some(Pfn(pfn)) } else { None }
    }
}

const OWN: &str = "/proc/self/pagemap";

/// An address space's `pagemap`, open. It goes on to mean the address space that was current when
/// it was opened: after an `execve(2)` or the process's end, reads return nothing.
#[derive(Debug)]
pub struct Pagemap {
    file: OwnedFd,
    subject: Cow<'static, str>,
}

impl Pagemap {
    pub(crate) fn new(file: OwnedFd, subject: String) -> Self {
        Self { file, subject: Cow::Owned(subject) }
    }

    /// Opens this process's own.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn of_self() -> Result<Self> {
        Self::open_own().map_err(|e| Error::os("open", OWN, e))
    }

    /// The same without allocating.
    ///
    /// # Errors
    /// As for [`Pagemap::of_self`].
    pub fn open_own() -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(OWN, flags, Mode::empty())?;
        Ok(Self { file, subject: Cow::Borrowed(OWN) })
    }

    /// Reads the words of the pages from `start`, with only the bits that [`Word`] knows: other ones
    /// (soft-dirty, write-protection, guards) are also set where there is no page. As many as the buffer has, and returns how many
    /// were read: fewer only where the address space ends or is gone.
    ///
    /// Costs about 20 ns a page that is present. Holds the mmap lock for 2 MiB at a time.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, start: PageIdx, words: &mut [u64]) -> Result<usize> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
        let offset = start.0 * 8;
        let read = rustix::io::pread(&self.file, bytes, offset)
            .map_err(|e| Error::os("read", format!("{} at {start}", self.subject), e))?;
        words.iter_mut().for_each(|word| *word = Word::known_bits(*word));
        Ok(read / 8)
    }

    /// Reads one page's word; nothing if the address space is gone.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn word(&self, page: PageIdx) -> Result<Option<Word>> {
        let mut word = [0];
        Ok((self.read(page, &mut word)? == 1).then_some(Word(word[0])))
    }

    /// Finds the page tables and huge pages of a range: runs of pages for which an entry exists, be
    /// it an empty one. Looks from the start of `range` until it ends or a bound is met: as many runs
    /// as `runs` has places, [`SCAN_MAX_ENTRIES`] entries, or [`SCAN_MAX_SPAN`] of addresses.
    ///
    /// The kernel documents this query as "pages that are not write-protected by userfaultfd", which
    /// an empty entry of an existing table isn't either. Since Linux 7.3 that is only said of mappings
    /// with such a protection, so [`crate::Features`] tries it out before it is relied on. Empty
    /// entries count for the bound, so that it holds whatever is there.
    ///
    /// Costs about 10 ns an entry, and 20 ns a 2 MiB block without a table.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7; `ESRCH` where the address space is gone.
    pub fn find_tables<'a>(&self, range: PageRange, runs: &'a mut [Run]) -> Result<Scanned<'a>> {
        let span_end = range.start + SCAN_MAX_SPAN.whole_pages();
        let bounded = PageRange { end: range.end.min(span_end), ..range };
        self.scan(Query::Tables, bounded, SCAN_MAX_ENTRIES, runs)
            .map_err(|source| Error::os("scan", format!("{} at {range}", self.subject), source))
    }

    /// Finds the pages of a range that hold something, in runs, and passes tables that hold nothing. Looks
    /// from the start of `range` until it ends or a bound is met: as many runs as `runs` has places, or
    /// [`SCAN_MAX_ENTRIES`] pages of addresses, since the kernel counts no entry that it passes.
    ///
    /// Costs about 10 ns an entry that holds something, 0.4 to 0.8 us a table that holds nothing, and 20 ns a
    /// 2 MiB block without one.
    ///
    /// # Errors
    /// As for [`Pagemap::find_tables`].
    pub fn find_held<'a>(&self, range: PageRange, runs: &'a mut [Run]) -> Result<Scanned<'a>> {
        let span_end = range.start + Pages(SCAN_MAX_ENTRIES);
        let bounded = PageRange { end: range.end.min(span_end), ..range };
        self.find(Query::Held, bounded, runs)
            .map_err(|source| Error::os("scan", format!("{} at {range}", self.subject), source))
    }

    /// Finds the first page table (or huge page) of a range: its block, nothing if there is none.
    ///
    /// Costs 0.5 us, and 20 ns a 2 MiB block without a table that is passed over. Allocates nothing.
    ///
    /// # Errors
    /// As for [`Pagemap::find_tables`].
    pub fn first_table(&self, range: PageRange) -> rustix::io::Result<Option<PageIdx>> {
        let mut runs = [Run::default()];
        let found = self.scan(Query::Tables, range, 1, &mut runs)?;
        Ok(found.runs.first().map(|run| run.range().start.block_start()))
    }

    /// Finds the pages of a range for which `query` holds, in runs, until the range ends or `runs`
    /// is full. Allocates nothing, and holds the mmap lock until it returns: the caller bounds
    /// the range.
    ///
    /// Costs 0.5 us a page table and 20 ns a 2 MiB block without one ([`Query::Tables`]: 6 us a table).
    ///
    /// # Errors
    /// As for [`Pagemap::find_tables`].
    pub fn find<'a>(
        &self,
        query: Query,
        range: PageRange,
        runs: &'a mut [Run],
    ) -> rustix::io::Result<Scanned<'a>> {
        self.scan(query, range, 0, runs)
    }

    /// Looks at one range, for at most `most` pages (0: any number).
    fn scan<'a>(
        &self,
        query: Query,
        range: PageRange,
        most: u64,
        runs: &'a mut [Run],
    ) -> rustix::io::Result<Scanned<'a>> {
        let mut request = ScanRequest::new(query, range, most, runs);
        let found = self.scan_ioctl(&mut request)?;
        Ok(Scanned { runs: &runs[..found], looked_until: PageIdx::containing(request.walk_end) })
    }

    /// Whether a page is part of a huge page that is mapped in one piece. Needs no privilege for one's
    /// own memory. Costs 0.5 us.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7; `ESRCH` where the address space is gone.
    pub fn is_mapped_huge(&self, page: PageIdx) -> Result<bool> {
        let mut runs = [Run::default()];
        let range = PageRange::starting_at(page, Pages(1));
        let found = self
            .scan(Query::Huge, range, 1, &mut runs)
            .map_err(|source| Error::os("scan", format!("{} at {page}", self.subject), source))?;
        Ok(!found.runs.is_empty())
    }

    fn scan_ioctl(&self, request: &mut ScanRequest) -> rustix::io::Result<usize> {
        const PAGEMAP_SCAN: Opcode = opcode::read_write::<ScanRequest>(b'f', 16);
        /// The ioctl's result is the number of runs, which `Updater` alone would drop.
        struct Scan<'a>(Updater<'a, PAGEMAP_SCAN, ScanRequest>);

        // SAFETY: the opcode is that of PAGEMAP_SCAN in linux/fs.h, which reads and writes a
        // `pm_scan_arg`, the layout of `ScanRequest`; everything but the output is passed on to
        // rustix's `Updater`, which owns the pointer.
        unsafe impl rustix::ioctl::Ioctl for Scan<'_> {
            type Output = usize;
            const IS_MUTATING: bool = true;
            fn opcode(&self) -> Opcode {
                self.0.opcode()
            }
            fn as_ptr(&mut self) -> *mut std::ffi::c_void {
                self.0.as_ptr()
            }
            unsafe fn output_from_ptr(
                result: rustix::ioctl::IoctlOutput,
                _: *mut std::ffi::c_void,
            ) -> rustix::io::Result<usize> {
                Ok(usize::try_from(result).unwrap_or(0))
            }
        }

        // SAFETY: `ScanRequest` is the type that PAGEMAP_SCAN expects (linux/fs.h, pm_scan_arg).
        let updater = unsafe { Updater::new(request) };
        // SAFETY: the file is a pagemap, the request points to `vec_len` writable places in a
        // buffer that its maker borrows for longer than this call.
        unsafe { ioctl(self.file.as_fd(), Scan(updater)) }
    }
}

/// Most entries that one scan looks at before it lets go of the mmap lock: 128 tables' worth.
pub const SCAN_MAX_ENTRIES: u64 = 1 << 16;
/// Most address space that one scan looks at: 32 GiB, at worst 16384 empty PMD entries.
pub const SCAN_MAX_SPAN: Bytes = Bytes(32 << 30);

/// A run of pages that a scan found (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

impl Run {
    /// The pages of the run.
    #[must_use]
    pub fn range(self) -> PageRange {
        PageRange { start: PageIdx::containing(self.start), end: PageIdx::containing(self.end) }
    }
}

/// What a scan found, and where it stopped looking.
#[derive(Debug)]
pub struct Scanned<'a> {
    /// The runs, by address.
    pub runs: &'a [Run],
    /// Everything before this page has been looked at.
    pub looked_until: PageIdx,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct ScanRequest {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Which pages a scan is to find (`PAGE_IS_*` of linux/fs.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Pages that have an entry in a page table, be it an empty one (Linux 6.7 to 7.2).
    Tables,
    /// Pages that hold something: present, swapped out, or a marker (guards are such).
    Held,
    /// Those of them that are not the shared zero page.
    HeldNotZero,
    /// Pages that are the shared zero page, or part of the huge one.
    Zero,
    /// Pages of huge pages that are mapped by one entry of a PMD table.
    Huge,
}

impl ScanRequest {
    /// `PAGE_IS_WRITTEN`: not write-protected by userfaultfd.
    const WRITTEN: u64 = 1 << 1;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    const PFNZERO: u64 = 1 << 5;
    const HUGE: u64 = 1 << 6;

    fn new(query: Query, range: PageRange, max_pages: u64, runs: &mut [Run]) -> Self {
        let held = Self::PRESENT | Self::SWAPPED;
        let (category_inverted, category_mask, category_anyof_mask) = match query {
            Query::Tables => (0, Self::WRITTEN, 0),
            Query::Held => (0, 0, held),
            Query::HeldNotZero => (Self::PFNZERO, Self::PFNZERO, held),
            Query::Zero => (0, Self::PFNZERO, 0),
            Query::Huge => (0, Self::HUGE, 0),
        };
        Self {
            size: size_of::<Self>() as u64,
            flags: 0,
            start: range.start.address(),
            end: range.end.address(),
            walk_end: 0,
            vec: runs.as_mut_ptr().expose_provenance() as u64,
            vec_len: runs.len() as u64,
            max_pages,
            category_inverted,
            category_mask,
            category_anyof_mask,
            // Of `Tables` only its own: the kernel has a fast path for just that.
            return_mask: category_mask | category_anyof_mask,
        }
    }
}

const _: () = assert!(size_of::<ScanRequest>() == 96 && size_of::<Run>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_pages_that_are_not_there_are_nothing() {
        let (soft_dirty, write_protected, guard) = (1 << 55, 1 << 57, 1 << 58);
        assert_eq!(Word::known_bits(soft_dirty | write_protected | guard), 0);
        let page = Word::PRESENT | Word::EXCLUSIVE | 0x1234;
        assert_eq!(Word::known_bits(page | soft_dirty | write_protected), page);
    }
}
