//! Chunks that an owner uses in base pages.

#![expect(unsafe_code, reason = "what a chunk's bitmap says becomes a right to its pages here")]

use std::collections::{BTreeMap, BTreeSet};

use recoup_core::pages::ChunkPages;
use recoup_core::units::{PAGE_SHIFT, PAGES_PER_CHUNK, PageInChunk, Pages};
use recoup_core::{ChunkIdx, ChunkRun};

use super::mapping::Span;

/// An owner's chunks of which pages are handed out.
#[derive(Debug, Default)]
pub(super) struct Desks {
    chunks: BTreeMap<ChunkIdx, Desk>,
    /// The chunks by how many of their pages are free: pages come from the fullest that has enough, so
    /// that others become empty.
    by_room: BTreeSet<(Pages, ChunkIdx)>,
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

/// What is kept for each chunk, with as much again for trees whose nodes are half full.
const BYTES_PER_DESK: usize = 2 * (size_of::<(ChunkIdx, Desk)>() + size_of::<(Pages, ChunkIdx)>());

impl Desks {
    /// What all of it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * BYTES_PER_DESK
    }

    /// Hands out pages of a chunk that is here already. Looks at a few chunks at most: where enough
    /// pages are free, they need not lie in a row.
    pub(super) fn take(&mut self, length: Pages) -> Option<(Span, PagesAt)> {
        let enough = self.by_room.range((length, ChunkIdx::default())..).take(MOST_LOOKS);
        let (room, (span, at)) = enough.copied().find_map(|room @ (_, chunk)| {
            Some((room, self.chunks.get_mut(&chunk)?.take(chunk, length)?))
        })?;
        self.by_room.remove(&room);
        self.by_room.insert((room.0 - length, at.chunk));
        Some((span, at))
    }

    /// Hands out the first pages of a chunk that was not here; the chunk itself if it has not so many.
    pub(super) fn open(
        &mut self,
        (span, run): (Span, ChunkRun),
        length: Pages,
    ) -> Result<(Span, PagesAt), (Span, ChunkRun)> {
        let chunk = run.start();
        let mut desk = Desk { span, pages: ChunkPages::default() };
        let Some(taken) = desk.take(chunk, length) else { return Err((desk.span, run)) };
        self.by_room.insert((desk.pages.free_pages(), chunk));
        self.chunks.insert(chunk, desk);
        Ok(taken)
    }

    /// Takes pages back; and hands the chunk back if it was the last of them.
    pub(super) fn put(&mut self, at: PagesAt) -> Option<(Span, ChunkRun)> {
        let desk = self.chunks.get_mut(&at.chunk)?;
        let room = desk.pages.free_pages();
        let freed = desk.pages.free(at.first, at.length);
        debug_assert!(freed.is_ok(), "pages that were handed out: {freed:?}");
        self.by_room.remove(&(room, at.chunk));
        if !desk.pages.is_unused() {
            self.by_room.insert((desk.pages.free_pages(), at.chunk));
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

/// How many chunks are looked at before another one is taken.
const MOST_LOOKS: usize = 8;

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
