//! How those who free memory wake the thread that gives it back.

use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering};

/// Rung when enough was freed, or anything while the thread sleeps without a deadline.
#[derive(Debug)]
pub(super) struct Bell {
    /// So many hints are enough; more than there can be if nobody listens.
    threshold: AtomicUsize,
    /// Whether whoever listens sleeps until something is freed.
    sleeps_long: AtomicBool,
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    someone_listens: bool,
    is_rung: bool,
    stop: bool,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The bell, or the time.
    Work,
    /// Nobody wants the thread any more.
    Stop,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            threshold: AtomicUsize::new(usize::MAX),
            sleeps_long: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            rung: Condvar::new(),
        }
    }
}

impl Bell {
    /// Something was freed, and so many hints wait. Called under the lock of whoever freed it: the
    /// thread looks there after it has said that it will sleep long, and so either it finds what was
    /// freed, or it is heard here.
    #[inline]
    pub(super) fn freed(&self, pending: usize) {
        let enough = pending >= self.threshold.load(Ordering::Relaxed);
        if enough || self.sleeps_long.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Something may have been freed, by somebody without such a lock.
    #[cold]
    pub(super) fn ring(&self) {
        self.sleeps_long.store(false, Ordering::Relaxed);
        self.state().is_rung = true;
        self.rung.notify_one();
    }

    /// Somebody wants to hear of so many hints.
    pub(super) fn listen(&self, threshold: usize) -> io::Result<()> {
        let mut state = self.state();
        if state.someone_listens {
            let kind = io::ErrorKind::AlreadyExists;
            return Err(io::Error::new(kind, "this pool has a thread that returns memory already"));
        }
        *state = State { someone_listens: true, is_rung: false, stop: false };
        self.threshold.store(threshold, Ordering::Relaxed);
        Ok(())
    }

    /// Has whoever listens stop.
    pub(super) fn silence(&self) {
        self.state().stop = true;
        self.rung.notify_all();
    }

    /// The thread has gone.
    pub(super) fn leave(&self) {
        self.threshold.store(usize::MAX, Ordering::Relaxed);
        self.sleeps_long.store(false, Ordering::Relaxed);
        *self.state() = State::default();
    }

    /// Whether nothing is left to be done until somebody frees something, who rings from now on.
    ///
    /// `has_spares` takes the locks of all who free. Whoever has freed something before has left it where
    /// these two looks find it, and whoever does later sees that a long sleep was announced: so hints come
    /// second.
    pub(super) fn can_sleep_long(
        &self,
        has_spares: impl FnOnce() -> bool,
        has_hints: impl FnOnce() -> bool,
    ) -> bool {
        self.sleeps_long.store(true, Ordering::Relaxed);
        !has_spares() && !has_hints()
    }

    /// Waits for the bell, at most so long. Ends at once if it was rung since the last wait.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> Call {
        if at_most.is_some() {
            self.sleeps_long.store(false, Ordering::Relaxed);
        }
        let until = at_most.and_then(|time| Instant::now().checked_add(time));
        let mut state = self.state();
        while !state.is_rung && !state.stop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.rung.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.rung.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.is_rung = false;
        if state.stop { Call::Stop } else { Call::Work }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
