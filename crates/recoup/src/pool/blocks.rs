//! Memory by layout and address, as allocators have it, instead of by extent.
//!
//! What a block takes follows from its layout alone, and is the same for all lengths that round up to
//! it. So whoever frees a block by the layout that it was asked for with, or by one as long as what it
//! got, names the same extent, and nothing has to be kept for each.

#![expect(unsafe_code, reason = "an address and a layout become the right to an extent again here")]

use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use recoup_core::units::{CHUNK_BYTES, PAGE_SHIFT, PAGES_PER_CHUNK, PageInChunk, Pages};
use recoup_core::{ChunkRun, Chunks};
use recoup_sys::PageIdx;

use super::desks::PagesAt;
use super::error::Result;
use super::extent::{Extent, Place};
use super::mapping::Span;
use super::owner::Owner;

/// What a block of some layout takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Footprint {
    /// Not even an address.
    Nothing,
    /// So many pages of a chunk.
    Pages(Pages),
    /// So many chunks.
    Chunks(Chunks),
}

/// The longest block in pages: half a chunk, as no chunk has two runs that are longer.
const MOST_PAGES: u64 = PAGES_PER_CHUNK as u64 / 2;

impl Footprint {
    /// As runs are aligned to their length, rounded up to a power of two, a block is at least as
    /// long as its alignment.
    pub(super) fn of(layout: Layout) -> Self {
        let bytes = match layout.size() {
            0 => return Self::Nothing,
            size => size.max(layout.align()) as u64,
        };
        match Pages(bytes.div_ceil(1 << PAGE_SHIFT)) {
            pages if pages.0 <= MOST_PAGES => Self::Pages(pages),
            _ => Self::Chunks(Chunks(bytes.div_ceil(CHUNK_BYTES))),
        }
    }

    pub(super) fn bytes(self) -> usize {
        let bytes = match self {
            Self::Nothing => 0,
            Self::Pages(pages) => pages.0 << PAGE_SHIFT,
            Self::Chunks(chunks) => chunks.bytes(),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// What a new block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Whatever is there.
    Any,
    Zeroes,
}

impl Owner {
    /// Memory for a layout, at least as long as that, until it is [freed](Self::free_block).
    pub(super) fn block(&self, layout: Layout, contents: Contents) -> Result<NonNull<[u8]>> {
        let extent = match (Footprint::of(layout), contents) {
            (Footprint::Nothing, _) => {
                let nowhere = std::ptr::without_provenance_mut(layout.align());
                let nowhere = NonNull::new(nowhere).unwrap_or(NonNull::dangling());
                return Ok(NonNull::slice_from_raw_parts(nowhere, 0));
            }
            (Footprint::Pages(pages), Contents::Any) => self.pages(pages)?,
            (Footprint::Pages(pages), Contents::Zeroes) => {
                let mut extent = self.pages(pages)?;
                extent.fill(0);
                extent
            }
            (Footprint::Chunks(Chunks(1)), Contents::Any) => self.chunk()?,
            (Footprint::Chunks(chunks), Contents::Any) => self.chunks(chunks)?,
            (Footprint::Chunks(chunks), Contents::Zeroes) => self.zeroed_chunks(chunks)?,
        };
        // Its share in the owner stays, too: as long as there are blocks, there is their pool.
        let extent = ManuallyDrop::new(extent);
        Ok(NonNull::slice_from_raw_parts(extent.as_ptr(), extent.len()))
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// It is a block of this owner with a layout of this footprint, which nobody uses any more.
    pub(super) unsafe fn free_block(&self, start: NonNull<u8>, footprint: Footprint) {
        let Some(place) = self.place(start, footprint) else { return };
        // SAFETY: promised by the caller.
        let span = unsafe { self.span(place) };
        // SAFETY: the share that `block` has left for this one.
        let holder = unsafe { Arc::from_raw(Arc::as_ptr(&self.0)) };
        drop(Extent::new(holder, span, place));
    }

    /// Makes a block one of another layout: where it is if it can, else somewhere else. It keeps its
    /// bytes up to the shorter of the two; behind the old length it has these contents.
    ///
    /// # Safety
    /// It is a block of this owner with the first layout, and nobody uses it.
    pub(super) unsafe fn resize_block(
        &self,
        start: NonNull<u8>,
        (old, new): (Layout, Layout),
        behind: Contents,
    ) -> Result<NonNull<[u8]>> {
        let [from, to] = [old, new].map(Footprint::of);
        let is_aligned = start.as_ptr().addr().is_multiple_of(new.align());
        // SAFETY: promised by the caller; what is cut off is no longer part of the block.
        if is_aligned && unsafe { self.fits_in_place(start, from, to) } {
            let length = to.bytes();
            if behind == Contents::Zeroes && old.size() < length {
                // SAFETY: inside of the block.
                let rest = unsafe { start.add(old.size()) };
                // SAFETY: from there to the end of it.
                unsafe { rest.write_bytes(0, length - old.size()) };
            }
            return Ok(NonNull::slice_from_raw_parts(start, length));
        }
        let block = self.block(new, behind)?;
        let length = old.size().min(new.size());
        // SAFETY: two different blocks that are at least so long.
        unsafe { block.cast().copy_from_nonoverlapping(start, length) };
        // SAFETY: promised by the caller.
        unsafe { self.free_block(start, from) };
        Ok(block)
    }

    /// Makes a block one of another footprint without moving it, if that is no larger. Says whether it
    /// did.
    ///
    /// # Safety
    /// It is a block of this owner of the first footprint, and nobody uses what lies behind the second any
    /// more.
    unsafe fn fits_in_place(&self, start: NonNull<u8>, old: Footprint, new: Footprint) -> bool {
        if old == new {
            return true;
        }
        let rest = match (self.place(start, old), new) {
            (Some(Place::Pages(at)), Footprint::Pages(new)) if new < at.length => {
                let first = at.first.get() + (Footprint::Pages(new).bytes() >> PAGE_SHIFT);
                let first = PageInChunk::new(first);
                first.map(|first| Place::Pages(PagesAt { first, length: at.length - new, ..at }))
            }
            (Some(Place::Chunks(run)), Footprint::Chunks(new)) => {
                let parts = self.0.zone().split(&self.0.local().account, run, new);
                parts.map(|(_, rest)| Place::Chunks(rest))
            }
            _ => None,
        };
        if let Some(rest) = rest {
            // SAFETY: the caller promises that nobody uses it.
            let span = unsafe { self.span(rest) };
            self.0.release(span, rest);
        }
        rest.is_some()
    }

    /// Where all of its blocks are.
    pub(super) fn addresses(&self) -> Range<usize> {
        let pages = self.0.zone().mapping().addresses();
        let address = |page: PageIdx| usize::try_from(page.address()).unwrap_or(usize::MAX);
        address(pages.start)..address(pages.end)
    }

    /// Where a block is.
    fn place(&self, start: NonNull<u8>, footprint: Footprint) -> Option<Place> {
        let chunk = || self.0.zone().mapping().chunk_at(start);
        match footprint {
            Footprint::Nothing => None,
            Footprint::Chunks(length) => ChunkRun::new(chunk(), length).map(Place::Chunks),
            Footprint::Pages(length) => {
                let page = start.as_ptr().addr() >> PAGE_SHIFT;
                let first = PageInChunk::new(page % PAGES_PER_CHUNK)?;
                Some(Place::Pages(PagesAt { chunk: chunk(), first, length }))
            }
        }
    }

    /// The memory of a place.
    ///
    /// # Safety
    /// It is an extent of this owner, or a part of one, that nobody uses.
    unsafe fn span(&self, place: Place) -> Span {
        let mapping = self.0.zone().mapping();
        match place {
            // SAFETY: promised by the caller.
            Place::Chunks(run) => unsafe { mapping.span(run) },
            Place::Pages(PagesAt { chunk, first, length }) => {
                // SAFETY: as above, but for the rest of the chunk, of which nothing is used here.
                let whole = unsafe { mapping.span(ChunkRun::single(chunk)) };
                let bytes = Footprint::Pages(length).bytes();
                // SAFETY: the whole is used for nothing else.
                unsafe { whole.part(first.get() << PAGE_SHIFT, bytes) }
            }
        }
    }
}
