//! A chunk that one owner uses in base pages.
//!
//! All of it belongs to that owner, so a page needs no more than a bit, and zeroing between owners
//! is the chunk's affair.

use core::fmt;

use crate::bits::Bits512;
use crate::units::{PAGES_PER_CHUNK, PageInChunk, Pages};

/// Which pages of a chunk are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPages {
    /// Is the page free?
    free: Bits512,
}

const _: () = assert!(size_of::<ChunkPages>() * 8 == PAGES_PER_CHUNK);

impl Default for ChunkPages {
    fn default() -> Self {
        Self { free: Bits512::FULL }
    }
}

impl ChunkPages {
    /// Hands out the first `length` free pages in a row (at least one) whose first is a multiple of
    /// `alignment`; `None` if the chunk has no such run. Costs at most one look at each run.
    pub fn allocate(&mut self, length: Pages, alignment: Pages) -> Option<PageInChunk> {
        let length = usize::try_from(length.0.max(1)).ok()?;
        let start = self.free.find_run(length, usize::try_from(alignment.0).ok()?)?;
        self.free.remove_range(start..start + length);
        PageInChunk::new(start)
    }

    /// Takes back pages.
    ///
    /// # Errors
    /// Some of them are not handed out, or past the chunk's end. Nothing changed.
    pub fn free(&mut self, start: PageInChunk, length: Pages) -> Result<(), NotHandedOut> {
        let refused = NotHandedOut { start, length };
        let end = usize::try_from(length.0).map_err(|_| refused)?.saturating_add(start.get());
        if end > PAGES_PER_CHUNK || self.free.intersects(start.get()..end) {
            return Err(refused);
        }
        self.free.insert_range(start.get()..end);
        Ok(())
    }

    /// How many pages are free.
    #[must_use]
    pub fn free_pages(&self) -> Pages {
        Pages(self.free.count() as u64)
    }

    /// Whether no page is handed out, so that the chunk can be freed.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.free == Bits512::FULL
    }
}

/// Pages were to be freed that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHandedOut {
    /// The first page.
    pub start: PageInChunk,
    /// How many were named.
    pub length: Pages,
}

impl fmt::Display for NotHandedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, length } = self;
        write!(f, "not all of the {} pages from {} are handed out", length.0, start.get())
    }
}

impl core::error::Error for NotHandedOut {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_serves_each_page_once() {
        let mut pages = ChunkPages::default();
        for place in 0..PAGES_PER_CHUNK {
            let page = pages.allocate(Pages(1), Pages(1)).map(PageInChunk::get);
            assert_eq!(page, Some(place));
        }
        assert_eq!(pages.allocate(Pages(1), Pages(1)), None);
        assert_eq!(pages.free_pages(), Pages(0));
    }

    #[test]
    fn a_run_is_aligned_and_comes_back_whole() {
        let mut pages = ChunkPages::default();
        assert_eq!(pages.allocate(Pages(3), Pages(1)), PageInChunk::new(0));
        let run = pages.allocate(Pages(16), Pages(16)).unwrap();
        assert_eq!(run.get(), 16);
        assert_eq!(pages.free(run, Pages(16)), Ok(()));
        assert_eq!(pages.free(PageInChunk::default(), Pages(3)), Ok(()));
        assert!(pages.is_unused());
    }

    #[test]
    fn nothing_changes_when_pages_are_freed_that_nobody_has() {
        let mut pages = ChunkPages::default();
        let page = pages.allocate(Pages(1), Pages(1)).unwrap();
        let before = pages.clone();
        for length in [2, 513, u64::MAX] {
            assert!(pages.free(page, Pages(length)).is_err());
            assert_eq!(pages, before);
        }
        assert_eq!(pages.allocate(Pages(512), Pages(1)), None);
        assert_eq!(pages.allocate(Pages(u64::MAX), Pages(u64::MAX)), None);
    }
}
