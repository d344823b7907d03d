//! What the kernel keeps of the pages that a file maps: struct pages, or nothing.

#![expect(unsafe_code, reason = "a file is mapped here to see what becomes of it")]

use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::mapped::OwnedMapping;
use crate::own::{self, Backing};
use crate::units::Bytes;

/// What the kernel keeps of each page of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// A struct page: how often it is mapped is known, and it can be populated, aged and pinned.
    StructPages,
    /// Nothing but the number of its frame in the page table (`VM_PFNMAP`): `/dev/mem`, registers and memory of
    /// devices. Nobody knows who maps it, and `pagemap` shows a hole; madvise(2) refuses nearly everything.
    None,
}

impl Metadata {
    /// What is kept of `length` bytes of a file from `offset` on, as one mapping of them shows, which is gone
    /// again then. No page is touched.
    ///
    /// Costs a mapping; of frames without struct pages also their page tables, 2 MiB a gigabyte, for a moment.
    ///
    /// # Errors
    /// Those of mmap(2): `ENODEV` for what cannot be mapped, `EPERM` for `/dev/mem` where the kernel
    /// uses it, `EINVAL` for what its driver does not take.
    pub fn of(file: BorrowedFd<'_>, offset: Bytes, length: Bytes) -> Result<Self> {
        let subject = || format!("{} bytes of a file from {:#x} on", length.0, offset.0);
        let fail = |e| Error::os("map", subject(), e);
        let bytes = usize::try_from(length.0).map_err(|_| fail(rustix::io::Errno::NOMEM))?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let none = std::ptr::null_mut();
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let start =
            unsafe { rustix::mm::mmap(none, bytes, ProtFlags::empty(), flags, file, offset.0) }
                .map_err(fail)?;
        // SAFETY: just mapped, and nobody else knows where.
        let mapping = unsafe { OwnedMapping::from_raw(start.cast(), bytes, Backing::Shared) };
        let takes = |advice| {
            let (start, length) =
                (own::address(mapping.pages().start), own::length(mapping.pages()));
            // SAFETY: nobody uses the mapping, and what is shared stays in its file.
            unsafe { libc::madvise(start, length, advice) == 0 }
        };
        // Both refuse what has no struct pages, where nothing would bring a page back. The second one refuses
        // locked memory too (mlockall), but is older than Linux 5.18.
        let is_kept = takes(libc::MADV_DONTNEED_LOCKED) || takes(libc::MADV_DONTNEED);
        Ok(if is_kept { Self::StructPages } else { Self::None })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Of frames alone: see the pool's tests in the guest `reserved`.
    #[test]
    fn a_file_has_struct_pages_wherever_it_is_mapped() {
        let file = tempfile::tempfile().expect("a file");
        for offset in [0, 4096, 3 << 20] {
            let found = Metadata::of(file.as_fd(), Bytes(offset), Bytes(2 << 20));
            assert_eq!(found.expect("it can be mapped"), Metadata::StructPages);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error_that_names_the_range() {
        let (end, _other) = std::io::pipe().expect("a pipe");
        let refused = Metadata::of(end.as_fd(), Bytes(4096), Bytes(8192)).expect_err("a pipe");
        let text = refused.to_string();
        assert!(text.contains("map 8192 bytes of a file from 0x1000 on"), "{text}");
    }
}
