//! Pages of the host's hugetlb pools.

#![expect(unsafe_code, reason = "a promise about gigabytes is made here")]

use std::path::Path;

use recoup_core::superchunk::Backing;
use recoup_sys::hugetlb::{self, Action, Change, DIRECTORY, Joining, Order, Place};
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, Error, Result};

use super::files::Gigabytes;
use super::{Arrival, Forking, Gigabyte, Kind, Metadata, Returns, Source};

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

    /// Sets more pages apart on this host, as far as they are to be had, with their struct pages
    /// optimised where the kernel can do that: it says what came, and what MemTotal gained. Needs
    /// root. They stay apart, also when the pool ends: see `recoup pool release`.
    ///
    /// # Errors
    /// For want of root, or where the kernel refuses at run time. Fewer pages than asked for are none:
    /// see [`Change::shortfall`].
    pub fn reserve(&self, pages: u64) -> Result<Change> {
        if hugetlb::vmemmap_optimised() == Some(false) {
            hugetlb::set_vmemmap(Joining::Optimised)?;
        }
        self.order(Action::Reserve, pages)
    }

    /// Splits free pages of a gigabyte into pages of 2 MiB, for a source of these. Needs root and Linux
    /// 5.16. There is no way back but to release and to reserve them.
    ///
    /// # Errors
    /// For want of root, and for pages of 2 MiB, which become no smaller ones.
    pub fn demote(&self, pages: u64) -> Result<Change> {
        self.order(Action::Demote { into: BLOCK }, pages)
    }

    fn order(&self, action: Action, pages: u64) -> Result<Change> {
        Order { place: Place::Host, page_size: self.page, action, pages }.carry_out()
    }

    /// The same memory from a memfd, which a virtual machine's other processes can map (vhost-user).
    /// Nobody can shorten it (`F_SEAL_SHRINK`).
    ///
    /// # Errors
    /// Those of memfd_create(2).
    ///
    /// # Safety
    /// As for [`External::new`](super::External::new): as long as the pool lives, whoever has the file (a
    /// [`Gigabyte`] names it, and so does a guest's memory) changes those bytes of it alone that are his by
    /// agreement with their owner.
    pub unsafe fn shared(self) -> Result<Self> {
        let file = hugetlb::memfd("recoup-pool", self.page)
            .map_err(|e| Error::os("make", "a memfd of hugetlb pages", e))?;
        let files = Gigabytes::of_memfd(file, Some(self.page))?;
        Ok(Self { shared: Some(files), ..self })
    }
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its own memfd once; that nobody else changes it was
// promised to `shared`.
unsafe impl Source for HugeTlb {
    fn kind(&self) -> Kind {
        Kind {
            name: if self.page == BLOCK { "2 MiB hugetlb pages" } else { "1 GiB hugetlb pages" },
            page: self.page,
            backing: Backing::OnTouch,
            arrival: Arrival::Fetched,
            returns: Returns::Extents,
            forking: Forking::Withheld,
            metadata: Metadata::StructPages,
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
