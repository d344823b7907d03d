//! Memory on its way back to the source, which takes milliseconds a gigabyte: whoever finds no room
//! meanwhile has to know of it.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// What of a pool's memory has set out and not yet arrived.
#[derive(Debug, Default)]
pub(super) struct Transit {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next passage.
    next: u64,
    /// Passages that are under way: some are a thousand times as fast as others.
    under_way: BTreeSet<u64>,
    /// How many have ended.
    arrived: u64,
}

impl Transit {
    /// Something sets out, and has arrived when the result is dropped.
    pub(super) fn set_out(&self) -> Passage<'_> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number);
        Passage { transit: self, number }
    }

    /// Waits until all has arrived that is on its way now. Whoever waits holds no lock that somebody
    /// needs on the way.
    pub(super) fn wait(&self) {
        let mut state = self.state();
        let later = state.next;
        while state.under_way.first().is_some_and(|&first| first < later) {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How much has arrived so far.
    pub(super) fn arrived(&self) -> u64 {
        self.state().arrived
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    transit: &'a Transit,
    number: u64,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut state = self.transit.state();
        state.under_way.remove(&self.number);
        state.arrived += 1;
        drop(state);
        self.transit.arrived.notify_all();
    }
}
