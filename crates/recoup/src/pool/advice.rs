//! What an owner may say about its memory.

use std::fmt;

use recoup_sys::own::{self, Hint};

use super::error::{Error, Result};
use super::extent::Extent;
use super::source::{Arrival, Kind, Metadata, Returns};

/// Advice about an extent that ends with it: nothing of it is left for the next owner of these addresses.
///
/// What stays with addresses (`MADV_HUGEPAGE`, `MADV_DONTDUMP`, guards, mlock(2), mprotect(2)) is not here:
/// whoever does that has to undo it before the extent is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will not be used soon: among the first to go when memory is short (`MADV_COLD`).
    Cold,
    /// The same, at once: to swap, if there is any (`MADV_PAGEOUT`).
    PageOut,
    /// It is to be one huge page for every 2 MiB from now on (`MADV_COLLAPSE`, Linux 6.1). Costs a copy
    /// of what is in base pages.
    Collapse,
    /// Nobody needs its bytes: its memory goes back to the source, and it reads as zero
    /// (`MADV_DONTNEED`, `MADV_REMOVE`). The next write brings memory again.
    Discard,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cold => "marked as cold",
            Self::PageOut => "paged out",
            Self::Collapse => "collapsed into huge pages",
            Self::Discard => "discarded while an extent has it",
        })
    }
}

impl Advice {
    /// What to do about memory that does not take it.
    pub(super) fn instead(self) -> &'static str {
        match self {
            Self::Cold | Self::PageOut | Self::Collapse => {
                "do without, as its pages are never aged, swapped or split"
            }
            Self::Discard => "drop the extent, or overwrite it with zeroes",
        }
    }

    /// Whether such memory takes it. Hugetlb pages are never aged, swapped or split, nor is what has
    /// no struct pages. What comes from a store that may run dry stays: a later touch might find
    /// nothing, and be met by SIGBUS.
    fn suits(self, kind: Kind) -> bool {
        let in_base_pages = kind.page == recoup_sys::units::PAGE;
        let has_struct_pages = kind.metadata == Metadata::StructPages;
        match self {
            Self::Cold | Self::PageOut | Self::Collapse => in_base_pages && has_struct_pages,
            Self::Discard => kind.arrival == Arrival::OnTouch && kind.returns == Returns::Extents,
        }
    }
}

impl Extent {
    /// Gives advice about all of it.
    ///
    /// # Errors
    /// [`Error::Advice`] for memory that does not take it: hugetlb pages, files and devices, as
    /// [`Advice`] says. [`Error::NotFollowed`] with the kernel's reason. Only [`Advice::Discard`]
    /// changes bytes.
    pub fn advise(&mut self, advice: Advice) -> Result<()> {
        let kind = self.kind();
        if !advice.suits(kind) {
            return Err(Error::Advice { advice, name: kind.name });
        }
        let pages = self.page_range();
        match advice {
            Advice::Cold => own::hint(pages, Hint::Cold),
            Advice::PageOut => own::hint(pages, Hint::PageOut),
            Advice::Collapse => own::hint(pages, Hint::Collapse),
            Advice::Discard => self.discard(),
        }
        .map_err(Error::NotFollowed)
    }
}
