//! What was freed is hinted, and given back later.
//!
//! Who frees memory sets a bit in a [`HintMap`] and goes on; who allocates leaves the map alone.
//! So a hint is never a promise: when a [`Worker`] finds that enough has gathered, or waited long
//! enough, it asks the book what is still free.
//!
//! ```text
//!   free ──hint──▶ isolate ──────▶ send ────────▶ transport ──────▶ settle: cold
//!                  still free?     not taken      └─ failed ──────▶ settle: as it was
//!                  at most 16      meanwhile?
//!                                  └─ taken ──────────────────────▶ restore the rest
//! ```
//!
//! What is guaranteed:
//!
//! 1. Memory that is in use is never given back: it is isolated only if it is free, and between
//!    [`send`](FreeMemory::send) and [`settle`](FreeMemory::settle) no allocation gets it.
//! 2. At most a batch is isolated at a time, and an allocation may take what is not yet sent. So it
//!    waits for one request at most, and a request names one extent, unless
//!    [`Settings::per_request`] says otherwise.
//! 3. Everything isolated is put back: after success, after a failure, and when a transport panics.
//! 4. What is freed is looked at after it was freed, however freeing and the worker's look
//!    interleave: no hint is lost (but those that a failing transport was asked for).

mod map;
mod worker;

pub use map::{HintMap, Word};
pub use worker::{Due, Round, Settings, Stats, Worker};

use crate::units::{CHUNK_ORDER, ChunkIdx, ChunkRun, Chunks, SUPERCHUNK_ORDER};

/// How many extents are isolated at a time, unless a [`Worker`] is made for another number.
pub const BATCH: usize = 16;

/// Naturally aligned memory of `1 << order` base pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The distance from the start of memory, in extents of this order.
    pub index: u64,
    /// Binary logarithm of the pages.
    pub order: u8,
}

impl Extent {
    /// The chunks of an extent, if its order is from a chunk's to a superchunk's.
    #[must_use]
    pub fn run(self) -> Option<ChunkRun> {
        if !(CHUNK_ORDER..=SUPERCHUNK_ORDER).contains(&self.order) {
            return None;
        }
        let length = 1 << (self.order - CHUNK_ORDER);
        ChunkRun::new(ChunkIdx(self.index.checked_mul(length)?), Chunks(length))
    }
}

/// What became of memory that was isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was given back: nothing stands behind it any more.
    Returned,
    /// It was not.
    Kept,
}

/// The book that knows what is free. Who shares one takes its lock for each call, and only so long.
///
/// What is isolated is either restored, or sent and settled. Several workers may share a book: what one
/// has sent, another can neither send nor restore.
pub trait FreeMemory {
    /// Takes an extent out to be given back, if all of it is free and it is worth it. Allocations
    /// may still take it, or part of it.
    fn isolate(&mut self, extent: Extent) -> bool;

    /// Puts back what allocations have left of an isolated extent.
    fn restore(&mut self, extent: Extent);

    /// Keeps an isolated extent from allocations until it is settled, unless they have taken some of
    /// it already.
    fn send(&mut self, extent: Extent) -> bool;

    /// Puts back an extent that was sent.
    fn settle(&mut self, extent: Extent, fate: Fate);
}

/// The way back to where memory came from.
pub trait Return {
    /// Why it did not work.
    type Error;

    /// Gives these extents back, and comes back when nothing stands behind them any more. Until then
    /// nobody uses them.
    ///
    /// # Errors
    /// What the transport says. All of them then count as kept, although some may have lost their
    /// bytes.
    fn give_back(&mut self, extents: &[Extent]) -> Result<(), Self::Error>;
}
