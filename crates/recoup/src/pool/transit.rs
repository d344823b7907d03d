//! Memory on its way back to the source, which takes milliseconds a gigabyte: whoever finds no room
//! meanwhile has to know of it.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// How much of a pool's memory has set out, and how much of that has arrived.
#[derive(Debug, Default)]
pub(super) struct Transit {
    counts: Mutex<Counts>,
    arrived: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    set_out: u64,
    arrived: u64,
}

impl Transit {
    /// Something sets out, and has arrived when the result is dropped.
    pub(super) fn set_out(&self) -> Passage<'_> {
        self.counts().set_out += 1;
        Passage(self)
    }

    /// Waits until as much has arrived as is on its way now. Whoever waits holds no lock that
    /// somebody needs on the way.
    pub(super) fn wait(&self) {
        let mut counts = self.counts();
        let all = counts.set_out;
        while counts.arrived < all {
            counts = self.arrived.wait(counts).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A number that is another one once something has arrived.
    pub(super) fn so_far(&self) -> u64 {
        self.counts().arrived
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Passage<'a>(&'a Transit);

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.counts().arrived += 1;
        self.0.arrived.notify_all();
    }
}
