//! Memory shared through a memfd.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use recoup_sys::units::PAGE_BYTES;

/// A shared mapping, unmapped when the process ends.
pub(crate) struct Shared {
    start: *mut u8,
    pages: u64,
}

impl Shared {
    pub(crate) fn new(pages: u64) -> rustix::io::Result<Self> {
        Self::of(pages, MemfdFlags::CLOEXEC)
    }

    /// Of the pool of 2 MiB pages.
    pub(crate) fn of_hugetlb(pages: u64) -> rustix::io::Result<Self> {
        Self::of(pages, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
    }

    pub(crate) fn addresses(&self) -> String {
        let start = self.start.addr();
        format!("{start:x}-{:x}", start as u64 + self.pages * PAGE_BYTES as u64)
    }

    fn of(pages: u64, flags: MemfdFlags) -> rustix::io::Result<Self> {
        let file = memfd_create("recoup-workload", flags)?;
        let bytes = pages * PAGE_BYTES as u64;
        ftruncate(&file, bytes)?;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so nothing is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, &file, 0) }?;
        Ok(Self { start: start.cast(), pages })
    }

    /// Writes to the page FIRST and each STEP after it, TIMES in all.
    pub(crate) fn touch(&mut self, numbers: &[u64]) {
        let [first, step, times] = *numbers else {
            return;
        };
        for page in (0..times).map(|i| first + i * step).filter(|&page| page < self.pages) {
            let offset = usize::try_from(page).unwrap_or(usize::MAX) * PAGE_BYTES;
            let byte = self.start.wrapping_add(offset);
            // SAFETY: the page lies in the mapping, which stays until the process ends.
            unsafe { byte.write_volatile(1) };
        }
    }
}
