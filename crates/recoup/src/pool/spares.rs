//! Chunks that an owner keeps at hand, so that taking one and giving it back need no book.
//!
//! They count as the owner's in the book, and as free everywhere else. There are few, and whoever
//! needs them (a worker that gives memory back, an owner that finds the pool full, a compaction)
//! puts them back into the book first.

use recoup_core::{Account, ChunkRun, Chunks};

use super::error::Result;
use super::mapping::Span;
use super::zone::{Granted, Zone};

/// An owner's spare chunks.
#[derive(Debug)]
pub(super) struct Spares {
    /// What the owner has freed, the last at the end: its bytes are the owner's.
    freed: Vec<(Span, ChunkRun)>,
    /// What was taken in advance, untouched.
    fresh: Vec<Granted>,
}

impl Default for Spares {
    fn default() -> Self {
        Self { freed: Vec::with_capacity(MOST_FREED), fresh: Vec::with_capacity(MOST_FRESH) }
    }
}

impl Spares {
    /// How many there are.
    pub(super) fn count(&self) -> Chunks {
        Chunks((self.freed.len() + self.fresh.len()) as u64)
    }

    /// The chunk that was freed last.
    #[inline]
    pub(super) fn take(&mut self) -> Option<(Span, ChunkRun)> {
        self.freed.pop()
    }

    /// A chunk from the zone, and others for the next times.
    pub(super) fn fetch(&mut self, zone: &Zone, account: &mut Account) -> Result<Granted> {
        self.fresh.pop().map_or_else(|| self.stock_up(zone, account), Ok)
    }

    /// Takes several chunks of what the zone has, and at least one.
    fn stock_up(&mut self, zone: &Zone, account: &mut Account) -> Result<Granted> {
        zone.allocate_more(account, MOST_FRESH, |granted| self.fresh.push(granted));
        // The best one was granted first.
        self.fresh.reverse();
        match self.fresh.pop() {
            Some(granted) => Ok(granted),
            None => zone.allocate(account, Chunks(1), recoup_core::Alignment::Chunk),
        }
    }

    /// Keeps a chunk, unless its owner has more than it may have. Says how many hints wait if some went
    /// back to the zone.
    #[inline]
    pub(super) fn put(
        &mut self,
        spare: (Span, ChunkRun),
        zone: &Zone,
        account: &mut Account,
    ) -> Option<usize> {
        if account.used() > account.limit() {
            return Some(zone.free(account, [spare]));
        }
        let full = self.freed.len() == MOST_FREED;
        let pending = full.then(|| zone.free(account, self.freed.drain(..MOST_FREED / 2)));
        self.freed.push(spare);
        pending
    }

    /// Puts all of them back into the zone's book. Says how many hints wait then.
    pub(super) fn give_up(&mut self, zone: &Zone, account: &mut Account) -> usize {
        zone.cancel(account, self.fresh.drain(..));
        zone.free(account, self.freed.drain(..))
    }

    /// The places of all of them.
    pub(super) fn places(&self) -> impl Iterator<Item = ChunkRun> {
        let fresh = self.fresh.iter().map(|granted| granted.grant.extent);
        self.freed.iter().map(|(_, run)| *run).chain(fresh)
    }
}

/// What the lists take in memory, however long they are.
pub(super) const BYTES: usize =
    MOST_FREED * size_of::<(Span, ChunkRun)>() + MOST_FRESH * size_of::<Granted>();

/// How many freed chunks an owner keeps: 32 MiB.
const MOST_FREED: usize = 16;
/// How many chunks are taken at a time.
const MOST_FRESH: usize = 8;
