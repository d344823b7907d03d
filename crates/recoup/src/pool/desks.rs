//! Chunks that an owner uses in base pages.

#![expect(unsafe_code, reason = "what a chunk's bitmap says becomes a right to its pages here")]

use std::collections::BTreeMap;

use recoup_core::pages::ChunkPages;
use recoup_core::units::Pages;
use recoup_core::units::{PAGE_SHIFT, PAGES_PER_CHUNK, PageInChunk};
use recoup_core::{ChunkIdx, ChunkRun};

use super::mapping::Span;

/// An owner's chunks of which pages are handed out.
#[derive(Debug, Default)]
pub(super) struct Desks {
    chunks: BTreeMap<ChunkIdx, Desk>,
    /// Where the last page was found.
    last: ChunkIdx,
}

#[derive(Debug)]
struct Desk {
    span: Span,
    pages: ChunkPages,
}

/// Where in a chunk an extent of pages lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PagesAt {
    pub(super) chunk: ChunkIdx,
    pub(super) first: PageInChunk,
    pub(super) length: Pages,
}

impl Desks {
    /// Hands out pages of a chunk that is here already.
    pub(super) fn take(&mut self, length: Pages) -> Option<(Span, PagesAt)> {
        let last = self.chunks.range_mut(self.last..self.last + recoup_core::Chunks(1)).next();
        if let Some(found) = last.and_then(|(&chunk, desk)| desk.take(chunk, length)) {
            return Some(found);
        }
        let found = self.chunks.iter_mut().find_map(|(&chunk, desk)| desk.take(chunk, length))?;
        self.last = found.1.chunk;
        Some(found)
    }

    /// A chunk more to hand out pages of.
    pub(super) fn add(&mut self, span: Span, chunk: ChunkIdx) {
        self.chunks.insert(chunk, Desk { span, pages: ChunkPages::default() });
        self.last = chunk;
    }

    /// Takes pages back; and hands the chunk back if it was the last of them.
    pub(super) fn put(&mut self, at: PagesAt) -> Option<(Span, ChunkRun)> {
        let desk = self.chunks.get_mut(&at.chunk)?;
        let freed = desk.pages.free(at.first, at.length);
        debug_assert!(freed.is_ok(), "pages that were handed out: {freed:?}");
        if !desk.pages.is_unused() {
            return None;
        }
        let desk = self.chunks.remove(&at.chunk)?;
        Some((desk.span, ChunkRun::single(at.chunk)))
    }

    /// The chunks, and how many pages of each are free.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (ChunkIdx, Pages)> {
        self.chunks.iter().map(|(&chunk, desk)| (chunk, desk.pages.free_pages()))
    }
}

impl Desk {
    fn take(&mut self, chunk: ChunkIdx, length: Pages) -> Option<(Span, PagesAt)> {
        let alignment = Pages(length.0.next_power_of_two().min(PAGES_PER_CHUNK as u64));
        let first = self.pages.allocate(length, alignment)?;
        let bytes = usize::try_from(length.0).ok()? << PAGE_SHIFT;
        // SAFETY: the bitmap hands out a page once, until `put` takes it back; nothing else uses the
        // chunk's span as long as it is here.
        let span = unsafe { self.span.part(first.get() << PAGE_SHIFT, bytes) };
        Some((span, PagesAt { chunk, first, length }))
    }
}
