//! A mapping of this process with one owner, whatever it is of, unmapped when dropped.

#![expect(unsafe_code, reason = "mappings are taken over and unmapped here")]

use crate::own::{self, Backing, Released};
use crate::region::Region;
use crate::units::{Bytes, PageIdx, PageRange};

/// A mapping that nobody uses any more but that still has to be unmapped.
#[derive(Debug)]
pub struct OwnedMapping {
    pages: PageRange,
    backing: Backing,
}

impl OwnedMapping {
    /// Takes over the mapping of `length` bytes from `start`, whole pages of its backing.
    ///
    /// # Safety
    /// Exactly these pages are mapped with `backing`; they belong to the caller, no reference to
    /// them exists, and from now on only this value may unmap them. If they are shared memory, it
    /// goes on existing for others: it is unmapped here, not discarded.
    #[must_use]
    pub unsafe fn from_raw(start: *mut u8, length: usize, backing: Backing) -> Self {
        let first = start.expose_provenance() as u64;
        let start = PageIdx::containing(first);
        let end = PageIdx::containing(first.saturating_add(length as u64));
        Self { pages: PageRange { start, end }, backing }
    }

    /// How much of the address space it takes.
    #[must_use]
    pub fn length(&self) -> Bytes {
        self.pages.length().bytes()
    }

    /// Its pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// What it is of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Takes the part before `end` out, rounded down to whole pages of its backing, as a mapping of its
    /// own.
    #[must_use]
    pub fn take_before(&mut self, end: PageIdx) -> Self {
        let unit = self.backing.page_size().whole_pages().0;
        let cut = PageIdx(end.0 / unit * unit).max(self.pages.start).min(self.pages.end);
        let pages = PageRange { end: cut, ..self.pages };
        self.pages.start = cut;
        Self { pages, backing: self.backing }
    }

    /// What it maps, to be given back before it is unmapped: nothing for shared memory, whose
    /// contents belong to others too.
    #[must_use]
    pub fn contents(&mut self) -> Option<Released<'_>> {
        match self.backing {
            Backing::Shared | Backing::HugeTlbShared(_) => None,
            Backing::Private | Backing::HugeTlbPrivate(_) => {
                let start = own::address(self.pages.start).cast();
                // SAFETY: whoever made this value promised that the pages belong to it alone; the
                // exclusive borrow lasts as long as what is made here.
                Some(unsafe { Released::new(start, own::length(self.pages), self.backing) })
            }
        }
    }
}

impl From<Region> for OwnedMapping {
    fn from(region: Region) -> Self {
        let (start, length, backing) = region.into_raw();
        // SAFETY: the region was the only owner of exactly this mapping, made it with this backing,
        // and gave it up.
        unsafe { Self::from_raw(start.cast(), length, backing) }
    }
}

impl Drop for OwnedMapping {
    fn drop(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        let start = own::address(self.pages.start);
        // SAFETY: the maker promised that only this value unmaps these pages; nobody uses them.
        let result = unsafe { rustix::mm::munmap(start, own::length(self.pages)) };
        debug_assert!(result.is_ok(), "munmap of an own mapping: {result:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pages;

    #[test]
    fn a_region_stays_what_it_was_made_of() {
        let mut shared = Region::of(Backing::Shared, Bytes(4 << 20)).expect("memory");
        shared.touch(Pages(3), Pages(1));
        assert_eq!(shared.contents().backing(), Backing::Shared);
        shared.contents().discard().expect("shared memory can be given back");
        // Private memory's way to discard would have left it in the file.
        assert_eq!(shared.peek(3 * crate::units::PAGE_BYTES), 0);
        let mut mapping = OwnedMapping::from(shared);
        assert_eq!(mapping.backing(), Backing::Shared);
        assert!(mapping.contents().is_none(), "others may map it");
    }

    #[test]
    fn parts_cover_a_mapping() {
        let mut mapping = OwnedMapping::from(Region::new(Bytes(8 << 20)).expect("memory"));
        let all = mapping.pages();
        let part = mapping.take_before(all.start + Pages(600));
        assert_eq!(part.pages(), PageRange::starting_at(all.start, Pages(600)));
        assert_eq!(mapping.pages().start, part.pages().end);
        drop(part);
        let rest = mapping.take_before(PageIdx(u64::MAX));
        assert!(rest.pages().end == all.end && mapping.pages().is_empty());
    }

    #[test]
    fn a_region_is_unmapped_whole() {
        let region = Region::new(Bytes(4 << 20)).expect("memory");
        let page = region.pages().start;
        let mapping = OwnedMapping::from(region);
        assert!(mapping.length() >= Bytes(4 << 20));
        let mapped = || {
            let process = crate::Process::own().expect("self");
            process.mappings().expect("maps").iter().any(|map| map.range.contains(page))
        };
        assert!(mapped());
        drop(mapping);
        assert!(!mapped());
    }
}
