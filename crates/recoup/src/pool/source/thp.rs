//! Ordinary memory, in huge pages where the host gives them.

#![expect(unsafe_code, reason = "a promise about gigabytes is made here")]

use std::fs::File;

use recoup_core::superchunk::Backing;
use recoup_sys::units::PAGE;
use recoup_sys::{Bytes, Error, Result};
use rustix::fs::MemfdFlags;

use super::files::{Gigabytes, Growth};
use super::{Arrival, Gigabyte, Kind, Returns, Source};

/// Memory of the machine that needs no privilege and no set-up. It comes in transparent huge pages
/// where the host has them (`/sys/kernel/mm/transparent_hugepage/enabled` at `always` or `madvise`; for
/// shared memory `shmem_enabled`), else in base pages.
#[derive(Debug)]
pub struct Thp(Option<Gigabytes>);

impl Thp {
    /// Private anonymous memory.
    #[must_use]
    pub fn private() -> Self {
        Self(None)
    }

    /// Memory of a memfd, which a virtual machine's other processes can map (vhost-user).
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn shared() -> Result<Self> {
        let file = rustix::fs::memfd_create("recoup-pool", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::os("make", "a memfd", e))?;
        Ok(Self(Some(Gigabytes::new(File::from(file), Bytes(0), None, Growth::AsAskedFor))))
    }
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its own memfd once.
unsafe impl Source for Thp {
    fn kind(&self) -> Kind {
        Kind {
            name: if self.0.is_none() { "private memory" } else { "a memfd" },
            page: PAGE,
            backing: Backing::OnTouch,
            arrival: Arrival::OnTouch,
            returns: Returns::Extents,
        }
    }

    fn take(&self) -> Result<Gigabyte> {
        self.0.as_ref().map_or(Ok(Gigabyte::Private), Gigabytes::take)
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        if let Some(files) = &self.0 {
            files.put_back(&gigabyte);
        }
    }
}
