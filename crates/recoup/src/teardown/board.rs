//! What the workers of a crew share: the slices left, who works, and what was done.
//!
//! One lock keeps it all. It is held for less than a microsecond a slice of at least 32 MiB, so nothing
//! is gained by anything finer. What a slice is doesn't matter here, and nothing here frees anything.

use std::sync::PoisonError;
use std::time::Duration;

use recoup_sys::{Bytes, PageRange};

use super::Failure;
use super::gain::{Advice, Gain};
use crate::sync::{Mutex, MutexGuard};

/// Where workers take slices and note what became of them.
#[derive(Debug)]
pub(super) struct Board<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    slices: std::vec::IntoIter<T>,
    gain: Gain,
    working: usize,
    /// Workers that are still to go.
    dismissed: usize,
    cancelled: bool,
    tally: Tally,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) freed: Bytes,
    pub(super) failures: Vec<Failure>,
    /// The most that worked at once.
    pub(super) workers: usize,
}

impl<T> Board<T> {
    pub(super) fn new(slices: Vec<T>, gain: Gain) -> Self {
        let slices = slices.into_iter();
        let tally = Tally::default();
        Self(Mutex::new(State { slices, gain, working: 0, dismissed: 0, cancelled: false, tally }))
    }

    /// A panic in somebody's progress callback leaves the board as it is: still right.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins: before its first slice.
    pub(super) fn enlist(&self) {
        let mut state = self.state();
        state.working += 1;
        state.tally.workers = state.tally.workers.max(state.working);
    }

    /// The next slice; nothing if this worker is to go. The last one never is, as long as there are
    /// slices: the one that was hired on trial may not have come.
    pub(super) fn next(&self) -> Option<T> {
        let mut state = self.state();
        let dismissed = state.dismissed > 0 && state.working > 1;
        let slice = if dismissed {
            state.dismissed -= 1;
            None
        } else if state.cancelled {
            None
        } else {
            state.slices.next()
        };
        if slice.is_none() {
            state.working -= 1;
        }
        slice
    }

    /// Notes what became of a slice, so long after the beginning. Returns what to do about the number
    /// of workers, and all bytes done so far.
    pub(super) fn note(
        &self,
        pages: PageRange,
        result: recoup_sys::Result<()>,
        now: Duration,
    ) -> (Advice, Bytes) {
        let mut state = self.state();
        let bytes = pages.length().bytes();
        match result {
            Ok(()) => state.tally.freed += bytes,
            Err(error) => {
                let freed_before = state.tally.freed;
                state.tally.failures.push(Failure { pages, error, freed_before });
            }
        }
        let advice = state.gain.observe(bytes, now);
        if advice == Advice::Shrink {
            state.dismissed += 1;
        }
        (advice, state.tally.freed)
    }

    /// No slice is begun any more.
    pub(super) fn cancel(&self) {
        self.state().cancelled = true;
    }

    /// What was done, and the slices that were not begun.
    pub(super) fn close(self) -> (Tally, Vec<T>) {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.tally, state.slices.collect())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use recoup_sys::{PageIdx, Pages};

    #[test]
    fn whoever_is_alone_stays_though_one_was_dismissed() {
        let slices: Vec<u64> = (0..10).collect();
        let board = Board::new(slices.clone(), Gain::new(2));
        board.enlist();
        let mut done = Vec::new();
        let mut advices = Vec::new();
        while let Some(slice) = board.next() {
            let pages = PageRange::starting_at(PageIdx(slice), Pages(1));
            advices.push(board.note(pages, Ok(()), Duration::from_secs(slice)).0);
            done.push(slice);
        }
        // The one that was to be hired never came.
        assert!(advices.contains(&Advice::Grow) && advices.contains(&Advice::Shrink));
        assert_eq!(done, slices);
        let (tally, left) = board.close();
        assert_eq!((tally.freed, tally.workers, left.len()), (Bytes(10 * 4096), 1, 0));
    }
}
