//! Ordinary memory, in huge pages where the host gives them.

#![expect(unsafe_code, reason = "a promise about gigabytes is made here")]

use recoup_core::superchunk::Backing;
use recoup_sys::units::PAGE;
use recoup_sys::{Error, Result};
use rustix::fs::MemfdFlags;

use super::files::Gigabytes;
use super::{Arrival, Forking, Gigabyte, Kind, Metadata, Returns, Source};

/// Memory of the machine that needs no privilege and no set-up. It comes in transparent huge pages
/// where the host has them (`/sys/kernel/mm/transparent_hugepage/enabled` at `always` or `madvise`; for
/// shared memory `shmem_enabled`), else in base pages.
#[derive(Debug)]
pub struct Thp {
    shared: Option<Gigabytes>,
    forking: Forking,
}

impl Thp {
    /// Private anonymous memory.
    #[must_use]
    pub fn private() -> Self {
        Self { shared: None, forking: Forking::Withheld }
    }

    /// The same, of which forked children get a copy: for what has to be there in a child too, as
    /// everything that a program's allocator hands out.
    ///
    /// While such a child lives, its pages are not the pool's alone: an [audit](crate::pool::Pool::audit)
    /// says so, and huge pages come apart as they are written. The child may use the pool like
    /// any other data with locks in it: only if no other thread was using it at the time of the fork.
    #[must_use]
    pub fn inherited() -> Self {
        Self { shared: None, forking: Forking::Inherited }
    }

    /// Memory of a memfd, which a virtual machine's other processes can map (vhost-user). Nobody can
    /// shorten it (`F_SEAL_SHRINK`).
    ///
    /// # Errors
    /// Those of memfd_create(2).
    ///
    /// # Safety
    /// As for [`External::new`](super::External::new): as long as the pool lives, whoever has the file (a
    /// [`Gigabyte`] names it, and so does a guest's memory) changes those bytes of it alone that are his by
    /// agreement with their owner.
    pub unsafe fn shared() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("recoup-pool", flags)
            .map_err(|e| Error::os("make", "a memfd", e))?;
        Ok(Self { shared: Some(Gigabytes::of_memfd(file, None)?), forking: Forking::Withheld })
    }
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its own memfd once; that nobody else changes it was
// promised to `shared`.
unsafe impl Source for Thp {
    fn kind(&self) -> Kind {
        Kind {
            name: if self.shared.is_none() { "private memory" } else { "a memfd" },
            page: PAGE,
            backing: Backing::OnTouch,
            arrival: Arrival::OnTouch,
            returns: Returns::Extents,
            forking: self.forking,
            metadata: Metadata::StructPages,
        }
    }

    fn take(&self) -> Result<Gigabyte> {
        self.shared.as_ref().map_or(Ok(Gigabyte::Private), Gigabytes::take)
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        if let Some(files) = &self.shared {
            files.put_back(&gigabyte);
        }
    }
}
