//! A range with one owner: page tables go back with the memory.

use std::sync::Arc;

use recoup_sys::reserved::{Contents, HugePages, Reserved, TableReclaim, TablesFreed};
use recoup_sys::{Bytes, Features, PageRange, Result};

use super::{Discarder, SplitPolicy};

/// Private anonymous memory whose owner gives pages back and takes them again.
///
/// No other kind: not shared memory, files or hugetlb pages, as what goes with its page table may be mapped
/// anew, as private anonymous memory that can be read and written.
///
/// When the last page of a 2 MiB block that is in use was given back, in however many pieces, the
/// block's page table goes as well; when the last block of a gigabyte was, that of the gigabyte.
#[derive(Debug)]
pub struct OwnedRange {
    reserved: Reserved,
    discarder: Arc<Discarder>,
}

impl OwnedRange {
    /// Takes charge of a range. Its splits are counted together with all others of `discarder`.
    #[must_use]
    pub fn new(reserved: Reserved, discarder: Arc<Discarder>) -> Self {
        Self { reserved, discarder }
    }

    /// Maps a range of `length` bytes, none of which is in use yet.
    ///
    /// # Errors
    /// Those of mmap(2), and of [`Features::probe`].
    pub fn map(length: Bytes, huge_pages: HugePages, discarder: Arc<Discarder>) -> Result<Self> {
        let by = table_reclaim(&Features::probe()?);
        Ok(Self::new(Reserved::map(length, huge_pages, by)?, discarder))
    }

    /// The range.
    #[must_use]
    pub fn reserved(&self) -> &Reserved {
        &self.reserved
    }

    /// The owner is about to use these pages: call it before one of them is touched.
    pub fn reuse(&self, pages: PageRange) {
        self.reserved.reuse(pages);
    }

    /// The memory, where it was mapped by [`OwnedRange::map`]: a way to use it without `unsafe`.
    pub fn contents(&mut self) -> Option<Contents<'_>> {
        self.reserved.contents()
    }

    /// Gives pages back, and the page tables that map nothing in use any more. The owner must not
    /// touch them again before this returned and it called [`OwnedRange::reuse`] then; whoever made
    /// the range promised so.
    ///
    /// # Errors
    /// Those of [`Discarder::discard`], and of mmap(2), where the tables stay. Either way everything
    /// else was done.
    pub fn discard(&self, pages: PageRange, policy: SplitPolicy) -> Result<TablesFreed> {
        let freed =
            self.reserved.give_back(pages, |released| self.discarder.discard(released, policy))?;
        freed.ranges.iter().for_each(|&range| self.discarder.forget(range));
        Ok(freed)
    }
}

/// How page tables are freed on this kernel.
#[must_use]
pub fn table_reclaim(features: &Features) -> TableReclaim {
    if features.table_reclaim.works() { TableReclaim::Discard } else { TableReclaim::Remap }
}
