//! Memory of this process's own, with one owner: anonymous, shared, or hugetlb.
//!
//! All of it is safe to use: whatever changes contents takes `&mut self`.

#![expect(unsafe_code, reason = "memory is mapped and addressed here")]

use std::ffi::c_void;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::own::{Backing, Released};
use crate::units::{BLOCK, Bytes, PageIdx, PageRange, Pages};

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub struct Region {
    backing: Backing,
    /// The mapping as the kernel gave it, larger than the region by the alignment's slack.
    mapping: NonNull<c_void>,
    mapping_length: usize,
    /// Where the region starts within the mapping: at a multiple of 2 MiB.
    offset: usize,
    length: usize,
}

// SAFETY: a region is plain memory that nobody else points to; it may change threads like a Box.
unsafe impl Send for Region {}
// SAFETY: a shared borrow only reads the memory or gives advice that changes none of its bytes.
unsafe impl Sync for Region {}

/// What to do with pages of one's own region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnAdvice {
    /// `MADV_HUGEPAGE`: huge pages where the host allows them.
    HugePages,
    /// `MADV_NOHUGEPAGE`: base pages only.
    BasePages,
    /// `MADV_DONTNEED`: discard, contents become zero.
    Discard,
    /// `MADV_FREE`: free lazily; contents may become zero until they are written again.
    FreeLazily,
    /// `MADV_WIPEONFORK` (Linux 4.14): a forked child finds zeroes.
    WipeOnFork,
}

impl Region {
    /// Maps `length` bytes of private anonymous memory, aligned to 2 MiB, without reserving swap for
    /// them.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(length: Bytes) -> Result<Self> {
        Self::of(Backing::Private, length)
    }

    /// Maps `length` bytes of such memory, aligned to 2 MiB, or to its pages if they are larger.
    ///
    /// # Errors
    /// Those of mmap(2): `ENOMEM` where too few hugetlb pages of this size are free, `EINVAL` where
    /// `length` is not made of them.
    pub fn of(backing: Backing, length: Bytes) -> Result<Self> {
        let subject = || format!("{} bytes of memory", length.0);
        let too_long = |_| Error::os("map", subject(), rustix::io::Errno::NOMEM);
        let length_usize = usize::try_from(length.0).map_err(too_long)?;
        let (sharing, page_size) = match backing {
            Backing::Private => (MapFlags::PRIVATE | MapFlags::NORESERVE, None),
            Backing::Shared => (MapFlags::SHARED | MapFlags::NORESERVE, None),
            Backing::HugeTlbPrivate(size) => (MapFlags::PRIVATE, Some(size)),
            Backing::HugeTlbShared(size) => (MapFlags::SHARED, Some(size)),
        };
        // Hugetlb mappings are aligned by the kernel; others get some slack for that.
        let (flags, alignment) = match page_size {
            Some(size) => (sharing | hugetlb_of(size), 0),
            None => (sharing, usize::try_from(BLOCK.0).map_err(too_long)?),
        };
        let mapping_length = length_usize + alignment;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let address = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapping_length, protection, flags)
        }
        .map_err(|e| Error::os("map", subject(), e))?;
        let mapping = NonNull::new(address)
            .ok_or_else(|| Error::malformed("mmap", "a mapping at address zero"))?;
        let offset = address.addr().next_multiple_of(alignment.max(1)) - address.addr();
        Ok(Self { backing, mapping, mapping_length, offset, length: length_usize })
    }

    /// Whole pages among `count` from the `first` one, to be given back: nobody else can use them as
    /// long as the result lives.
    ///
    /// # Panics
    /// If they lie past the region.
    pub fn release(&mut self, first: Pages, count: Pages) -> Released<'_> {
        let length = byte_count(count);
        let start = self.part(byte_count(first), length);
        // SAFETY: `part` checked that the pages are the region's, of which `&mut self` is the only
        // borrow, and the result keeps it; the region was mapped with this backing.
        unsafe { Released::new(start, length, self.backing) }
    }

    /// The pages of the region.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        let start = PageIdx::containing((self.mapping.as_ptr().addr() + self.offset) as u64);
        PageRange::starting_at(start, Bytes(self.length as u64).whole_pages())
    }

    /// Reads one byte, and never leaves it out: reading a page that was never written maps the
    /// shared zero page there.
    ///
    /// # Panics
    /// If it lies past the region.
    #[must_use]
    pub fn peek(&self, offset: usize) -> u8 {
        let source = self.part(offset, 1);
        // SAFETY: `part` checked that the byte is the region's, which is mapped as long as `self`.
        unsafe { source.read_volatile() }
    }

    /// Copies what the region holds from byte `offset` on into `buffer`.
    ///
    /// # Panics
    /// If that reaches past the region.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) {
        let source = self.part(offset, buffer.len());
        // SAFETY: `part` checked that all of these bytes are the region's, which is mapped as long
        // as `self`; the buffer is other memory. No reference to the region is made, since the
        // kernel may zero lazily freed pages at any time.
        unsafe { std::ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) }
    }

    /// Copies `bytes` into the region from byte `offset` on.
    ///
    /// # Panics
    /// If that reaches past the region.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let target = self.part(offset, bytes.len());
        // SAFETY: as for `read`, and the exclusive borrow keeps all other users of it away.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Gives `advice` about `count` pages from the `first` page of the region.
    ///
    /// # Errors
    /// `EINVAL` for pages outside of the region; else those of madvise(2).
    pub fn advise(&mut self, first: Pages, count: Pages, advice: OwnAdvice) -> Result<()> {
        let advice = match advice {
            OwnAdvice::HugePages => Advice::LinuxHugepage,
            OwnAdvice::BasePages => Advice::LinuxNoHugepage,
            OwnAdvice::Discard => Advice::LinuxDontNeed,
            OwnAdvice::FreeLazily => Advice::LinuxFree,
            OwnAdvice::WipeOnFork => Advice::LinuxWipeOnFork,
        };
        let range = PageRange::starting_at(self.pages().start + first, count);
        let fail = |e| Error::os("advise on", range.to_string(), e);
        let inside = self.pages().intersection(range) == range;
        if !inside {
            return Err(fail(rustix::io::Errno::INVAL));
        }
        let length = byte_count(count);
        let address = self.part(byte_count(first), length);
        // SAFETY: `part` checked that the range is the region's, of which `&mut self` is the only
        // borrow; none of these pieces of advice unmaps it.
        unsafe { rustix::mm::madvise(address.cast(), length, advice) }.map_err(fail)
    }

    /// Locks `count` pages from the `first` one into memory (mlock(2)), which also makes them
    /// present.
    ///
    /// # Errors
    /// `ENOMEM` past `RLIMIT_MEMLOCK`.
    ///
    /// # Panics
    /// If they lie past the region.
    pub fn lock(&mut self, first: Pages, count: Pages) -> Result<()> {
        let length = byte_count(count);
        let address = self.part(byte_count(first), length);
        // SAFETY: `part` checked that the range is the region's.
        unsafe { rustix::mm::mlock(address.cast(), length) }
            .map_err(|e| Error::os("lock", self.pages().to_string(), e))
    }

    /// Writes one byte into every page of `count` pages from the `first` on.
    ///
    /// # Panics
    /// If that reaches past the region.
    pub fn touch(&mut self, first: Pages, count: Pages) {
        for page in first.0..first.0 + count.0 {
            self.write(byte_count(Pages(page)), &[1]);
        }
    }

    /// All of it, to be given back to the kernel while it stays mapped.
    #[must_use]
    pub fn contents(&mut self) -> Released<'_> {
        // SAFETY: the region was mapped with this backing, and its only borrow lasts as long as the
        // promise.
        unsafe { Released::new(self.first_byte(), self.length, self.backing) }
    }

    /// Gives the whole mapping up: its address, length and backing, to be unmapped by somebody else.
    pub(crate) fn into_raw(self) -> (*mut c_void, usize, Backing) {
        let region = std::mem::ManuallyDrop::new(self);
        (region.mapping.as_ptr(), region.mapping_length, region.backing)
    }

    fn first_byte(&self) -> *mut u8 {
        self.mapping.as_ptr().cast::<u8>().wrapping_add(self.offset)
    }

    /// The address of `length` bytes from `offset` on, all of which are the region's.
    fn part(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(inside, "{length} bytes at {offset} in a region of {}", self.length);
        self.first_byte().wrapping_add(offset)
    }
}

/// `MAP_HUGETLB`, with the size of the pages in it (mmap(2), Linux 3.8).
pub(crate) fn hugetlb_of(size: Bytes) -> MapFlags {
    MapFlags::HUGETLB | MapFlags::from_bits_retain(size.0.ilog2() << libc::MAP_HUGE_SHIFT)
}

fn byte_count(pages: Pages) -> usize {
    usize::try_from(pages.bytes().0).unwrap_or(usize::MAX)
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; the last borrow of it has ended.
        let result = unsafe { rustix::mm::munmap(self.mapping.as_ptr(), self.mapping_length) };
        debug_assert!(result.is_ok(), "munmap of an own mapping: {result:?}");
    }
}
