//! How many superchunks all zones of a pool may have together.

use std::sync::atomic::{AtomicU64, Ordering};

use recoup_core::units::SUPERCHUNK_BYTES;
use recoup_sys::Bytes;

/// A number of superchunks, and how many of them are taken.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    taken: AtomicU64,
}

impl Budget {
    /// As many as fit into `limit`, at least one.
    pub(super) fn new(limit: Bytes) -> Self {
        Self { limit: (limit.0 / SUPERCHUNK_BYTES).max(1), taken: AtomicU64::new(0) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn limit_bytes(&self) -> Bytes {
        Bytes(self.limit * SUPERCHUNK_BYTES)
    }

    /// A share for one superchunk, if one is left.
    pub(super) fn take(&self) -> Option<Share<'_>> {
        // Relaxed: the number is all that is shared here.
        let one_more = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Share(self))
    }

    /// Gives back a share that was kept.
    pub(super) fn put_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A share that goes back unless it is kept.
#[derive(Debug)]
pub(super) struct Share<'a>(&'a Budget);

impl Share<'_> {
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.put_back();
    }
}
