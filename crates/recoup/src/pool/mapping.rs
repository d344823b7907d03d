//! The addresses of a pool's memory, and the bytes behind them.

#![expect(unsafe_code, reason = "the pool's memory is mapped, addressed and given back here")]

use std::ptr::NonNull;

use recoup_core::units::{
    CHUNK_BYTES, CHUNKS_PER_SUPERCHUNK, PAGE_SHIFT, PAGES_PER_CHUNK, SUPERCHUNK_BYTES,
};
use recoup_core::{ChunkIdx, ChunkRun, Chunks, SuperchunkIdx};
use recoup_sys::addresses::{Addresses, Forking};
use recoup_sys::own::{Backing, Released};
use recoup_sys::{Bytes, PageIdx, PageRange, Result};

use super::source::Gigabyte;

/// Addresses for so many superchunks, with memory behind those that are part of the pool.
#[derive(Debug)]
pub(super) struct Mapping {
    addresses: Addresses,
}

impl Mapping {
    /// Sets addresses apart for this many superchunks.
    pub(super) fn reserve(superchunks: u64, forking: Forking) -> Result<Self> {
        let length = Bytes(superchunks.saturating_mul(SUPERCHUNK_BYTES));
        let addresses = Addresses::reserve(length, Bytes(SUPERCHUNK_BYTES), forking)?;
        Ok(Self { addresses })
    }

    /// Puts a gigabyte behind a superchunk's addresses.
    ///
    /// # Safety
    /// The superchunk is not part of the pool: nobody uses these addresses.
    pub(super) unsafe fn attach(&self, at: SuperchunkIdx, gigabyte: &Gigabyte) -> Result<()> {
        // SAFETY: promised by the caller; and a pool's memory is in use only as long as its mapping
        // lives, which every `Span`'s owner sees to.
        unsafe { self.addresses.map(self.pages(whole(at)), gigabyte.memory()) }
    }

    /// Takes a superchunk's memory away.
    ///
    /// # Safety
    /// Nobody uses it.
    pub(super) unsafe fn detach(&self, at: SuperchunkIdx) -> Result<()> {
        // SAFETY: promised by the caller.
        unsafe { self.addresses.unmap(self.pages(whole(at))) }
    }

    /// Gives back what is behind chunks, which read as zero then.
    ///
    /// # Safety
    /// They are mapped, with memory of this backing, and nobody uses them.
    pub(super) unsafe fn discard(&self, run: ChunkRun, backing: Backing) -> Result<()> {
        if !self.addresses.is_of_this_process() {
            // Who forked has none of this memory, and may have other memory here.
            return Ok(());
        }
        let (start, length) = self.bytes(run);
        // SAFETY: promised by the caller.
        unsafe { Released::new(start.as_ptr(), length, backing) }.discard()
    }

    /// Gives back what is behind a span, which reads as zero then.
    pub(super) fn discard_span(&self, span: &mut Span, backing: Backing) -> Result<()> {
        if !self.addresses.is_of_this_process() {
            return Ok(());
        }
        // SAFETY: whoever made the span promised that it is the only way to its bytes, and it is
        // borrowed exclusively. Of this backing is all memory of a mapping.
        unsafe { Released::new(span.start.as_ptr(), span.length, backing) }.discard()
    }

    /// The bytes of chunks.
    ///
    /// # Safety
    /// They are part of the pool, nobody else has them, and as long as the span or what is made of it
    /// exists, they stay so, and this mapping lives.
    pub(super) unsafe fn span(&self, run: ChunkRun) -> Span {
        let (start, length) = self.bytes(run);
        Span { start, length }
    }

    /// The pages of chunks.
    pub(super) fn pages(&self, run: ChunkRun) -> PageRange {
        let (start, length) = self.bytes(run);
        let start = PageIdx::containing(start.as_ptr().expose_provenance() as u64);
        PageRange::starting_at(start, Bytes(length as u64).whole_pages())
    }

    /// All addresses, whether memory is behind them or not.
    pub(super) fn addresses(&self) -> PageRange {
        self.addresses.pages()
    }

    /// The chunk that an address is in.
    pub(super) fn chunk_at(&self, place: NonNull<u8>) -> ChunkIdx {
        let offset = place.as_ptr().addr() as u64 - self.addresses.pages().start.address();
        ChunkIdx(offset / CHUNK_BYTES)
    }

    /// Whether this is the process that has the memory, and not a forked child that has none.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.addresses.is_of_this_process()
    }

    fn bytes(&self, run: ChunkRun) -> (NonNull<u8>, usize) {
        let start = self.addresses.byte(Bytes(run.start().byte_offset()));
        (start, run.slots().len() * CHUNK)
    }
}

/// Bytes of a chunk.
pub(super) const CHUNK: usize = PAGES_PER_CHUNK << PAGE_SHIFT;

/// All chunks of a superchunk.
pub(super) fn whole(at: SuperchunkIdx) -> ChunkRun {
    part(at, 0..CHUNKS_PER_SUPERCHUNK)
}

/// Some chunks of a superchunk; the first one where there are none.
pub(super) fn part(at: SuperchunkIdx, slots: std::ops::Range<usize>) -> ChunkRun {
    let start = at.first_chunk() + Chunks(slots.start as u64);
    ChunkRun::new(start, Chunks(slots.len() as u64)).unwrap_or(ChunkRun::single(start))
}

/// Bytes of a pool that belong to whoever has this value, and to nobody else.
#[derive(Debug)]
pub(super) struct Span {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a span is the only way to its bytes, which are plain memory: it may change threads like a
// Box.
unsafe impl Send for Span {}
// SAFETY: a shared borrow only reads.
unsafe impl Sync for Span {}

impl Span {
    /// No bytes.
    pub(super) const EMPTY: Self = Self { start: NonNull::dangling(), length: 0 };

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn pages(&self) -> PageRange {
        let start = PageIdx::containing(self.start.as_ptr().expose_provenance() as u64);
        PageRange::starting_at(start, Bytes(self.length as u64).whole_pages())
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: whoever made the span promised that its bytes are mapped and nobody else's; all
        // memory of the kernel's is initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// A part of it.
    ///
    /// # Safety
    /// As long as the part exists, nobody uses its bytes through this span.
    ///
    /// # Panics
    /// If it reaches past the end.
    pub(super) unsafe fn part(&self, offset: usize, length: usize) -> Self {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(inside, "{length} bytes at {offset} in a span of {}", self.length);
        // SAFETY: inside of the span's bytes.
        Self { start: unsafe { self.start.add(offset) }, length }
    }
}
