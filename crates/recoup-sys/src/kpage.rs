//! What the kernel says of page frames: `/proc/kpageflags` and `/proc/kpagecount`
//! (Documentation/admin-guide/mm/pagemap.rst). Readable by root only; no lock of any process is
//! taken. A frame costs about 0.2 us when read alone.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::units::Pfn;

/// The flags of a page frame (include/uapi/linux/kernel-page-flags.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// Anonymous memory.
    pub const ANON: u64 = 1 << 12;
    /// Backed by swap; clear on anonymous memory that was freed lazily.
    pub const SWAPBACKED: u64 = 1 << 14;
    /// First page of a compound page.
    pub const COMPOUND_HEAD: u64 = 1 << 15;
    /// Any other page of a compound page.
    pub const COMPOUND_TAIL: u64 = 1 << 16;
    /// Part of a hugetlb page.
    pub const HUGE: u64 = 1 << 17;
    /// Part of a transparent huge page.
    pub const THP: u64 = 1 << 22;
    /// The shared zero page, small or huge (Linux 4.1).
    pub const ZERO_PAGE: u64 = 1 << 24;

    /// Whether any of these bits is set.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// Facts about page frames. The kernel has one implementation; tests have others.
pub trait Frames {
    /// The frame's flags; none for a frame that doesn't exist.
    ///
    /// # Errors
    /// Those of pread(2).
    fn flags(&self, frame: Pfn) -> Result<Flags>;

    /// How many page-table entries map the frame. Kernels with `CONFIG_NO_PAGE_MAPCOUNT` (6.15)
    /// give an average over the huge page instead.
    ///
    /// # Errors
    /// Those of pread(2).
    fn map_count(&self, frame: Pfn) -> Result<u64>;
}

/// The running kernel's frames.
#[derive(Debug)]
pub struct KernelFrames {
    flags: File,
    counts: File,
}

impl KernelFrames {
    /// Opens the two files.
    ///
    /// # Errors
    /// Where `/proc/kpageflags` cannot be opened: it is root's (mode 0400), and needs
    /// `CONFIG_PROC_PAGE_MONITOR`.
    pub fn open() -> Result<Self> {
        let open = |path: &str| File::open(Path::new(path)).map_err(|e| Error::os("open", path, e));
        Ok(Self { flags: open("/proc/kpageflags")?, counts: open("/proc/kpagecount")? })
    }
}

fn word_at(file: &File, subject: &str, frame: Pfn) -> Result<u64> {
    let mut word = [0_u64];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut word);
    rustix::io::pread(file, bytes, frame.0 * 8)
        .map_err(|e| Error::os("read", format!("{subject} at frame {:#x}", frame.0), e))?;
    Ok(word[0])
}

impl Frames for KernelFrames {
    fn flags(&self, frame: Pfn) -> Result<Flags> {
        word_at(&self.flags, "/proc/kpageflags", frame).map(Flags)
    }

    fn map_count(&self, frame: Pfn) -> Result<u64> {
        word_at(&self.counts, "/proc/kpagecount", frame)
    }
}
