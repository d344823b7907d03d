//! Pages of the host's hugetlb pools.

#![expect(unsafe_code, reason = "a promise about gigabytes is made here")]

use std::fs::File;
use std::path::Path;

use recoup_core::superchunk::Backing;
use recoup_sys::hugetlb::{self, DIRECTORY};
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, Error, Result};

use super::files::{Gigabytes, Growth};
use super::{Arrival, Gigabyte, Kind, Returns, Source};

/// Hugetlb pages, which somebody has set apart before (`recoup pool reserve`, or the boot parameter
/// `hugepages=`). They are never swapped, split or migrated, and with the vmemmap optimisation their
/// struct pages cost next to nothing.
#[derive(Debug)]
pub struct HugeTlb {
    page: Bytes,
    shared: Option<Gigabytes>,
}

/// The kernel has no hugetlb pages of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel has no hugetlb pages of {} KiB: see {DIRECTORY} for the sizes that it has",
    page.0 >> 10
)]
pub struct NoSuchPages {
    /// Of which size.
    pub page: Bytes,
}

impl HugeTlb {
    /// Private memory in pages of 2 MiB.
    ///
    /// # Errors
    /// The kernel has none of this size.
    pub fn two_mib() -> std::result::Result<Self, NoSuchPages> {
        Self::of(BLOCK)
    }

    /// Private memory in pages of 1 GiB.
    ///
    /// # Errors
    /// The kernel has none of this size.
    pub fn one_gib() -> std::result::Result<Self, NoSuchPages> {
        Self::of(PMD_TABLE_SPAN)
    }

    fn of(page: Bytes) -> std::result::Result<Self, NoSuchPages> {
        let sizes = hugetlb::pools(Path::new(DIRECTORY));
        let exists = sizes.iter().any(|pool| pool.page_size == page);
        exists.then_some(Self { page, shared: None }).ok_or(NoSuchPages { page })
    }

    /// The same from a memfd, which a virtual machine's other processes can map (vhost-user).
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn shared(self) -> Result<Self> {
        let file = hugetlb::memfd("recoup-pool", self.page)
            .map_err(|e| Error::os("make", "a memfd of hugetlb pages", e))?;
        let files = Gigabytes::new(File::from(file), Bytes(0), Some(self.page), Growth::AsAskedFor);
        Ok(Self { shared: Some(files), ..self })
    }
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its own memfd once.
unsafe impl Source for HugeTlb {
    fn kind(&self) -> Kind {
        Kind {
            name: if self.page == BLOCK { "2 MiB hugetlb pages" } else { "1 GiB hugetlb pages" },
            page: self.page,
            backing: Backing::OnTouch,
            arrival: Arrival::Fetched,
            returns: Returns::Extents,
        }
    }

    fn take(&self) -> Result<Gigabyte> {
        self.shared.as_ref().map_or(Ok(Gigabyte::HugeTlb(self.page)), Gigabytes::take)
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        if let Some(files) = &self.shared {
            files.put_back(&gigabyte);
        }
    }
}
