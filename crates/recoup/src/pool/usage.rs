//! What a pool's memory is used for, and what keeping it costs.

use recoup_core::Chunks;
use recoup_core::book::BYTES_PER_POOL;
use recoup_core::superchunk::BYTES_PER_SUPERCHUNK;
use recoup_core::units::CHUNK_BYTES;
use recoup_sys::Bytes;

use super::movable::Cell;
use super::owner::Holder;
use super::spares;
use super::zone::Zone;
use super::{Pool, Shared};

/// What a pool's memory is used for at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What came from the source, but for what is on its way back.
    pub attached: Bytes,
    /// What owners have: extents, and chunks of which pages are handed out.
    pub held: Bytes,
    /// What owners keep at hand.
    pub spare: Bytes,
    /// Free memory that is still backed.
    pub warm: Bytes,
    /// What the pool and its owners keep to know this, whether it is attached or not.
    pub bookkeeping: Bytes,
}

impl Pool {
    /// What the memory is used for. Looks at every gigabyte.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let holders = self.0.holders();
        let mut usage =
            Usage { bookkeeping: Bytes(size_of::<Shared>() as u64), ..Usage::default() };
        for holder in &holders {
            let local = holder.local();
            usage.spare += Bytes(local.spares.count().bytes());
            let books = size_of::<Holder>() + spares::BYTES + local.desks.bytes();
            usage.bookkeeping += Bytes(books as u64);
        }
        for (_, zone) in self.0.zones.all() {
            zone.count(&mut usage);
        }
        usage.held = Bytes(usage.held.0.saturating_sub(usage.spare.0));
        usage
    }
}

impl Zone {
    fn count(&self, usage: &mut Usage) {
        let state = self.state();
        let superchunks = state.book.superchunks();
        let present = superchunks.iter().filter(|superchunk| superchunk.is_present());
        for superchunk in present {
            usage.attached += Bytes(Chunks::SUPERCHUNK.bytes());
            let allocated = superchunk.allocated();
            usage.held += Bytes(allocated as u64 * CHUNK_BYTES);
            usage.warm += Bytes((superchunk.backed() - allocated) as u64 * CHUNK_BYTES);
        }
        let handles = state.movables.len() * Cell::BYTES;
        let books = BYTES_PER_POOL + superchunks.len() * BYTES_PER_SUPERCHUNK + handles;
        let hints = self.most_hints().div_ceil(8);
        usage.bookkeeping += Bytes((size_of::<Self>() + books) as u64 + hints);
    }
}
