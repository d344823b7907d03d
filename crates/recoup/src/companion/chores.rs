//! What the companion does for the program while that lives.

#![expect(unsafe_code, reason = "the promise of a task is made here, for the chores below")]

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use recoup_sys::companion::Task;
use recoup_sys::urgency;

use crate::discard::SplitQueue;
use crate::tables::Regulator;

/// Background work for the companion, in place of threads. If the companion is killed, nobody does it
/// any more: whoever waits at its fence goes on, and bounds on what waits for a split hold as before.
#[derive(Debug, Default)]
pub struct Chores {
    /// Keeps limits on page tables, in place of a [`crate::tables::Keeper`].
    pub tables: Option<Regulator>,
    /// Splits huge pages, in place of a [`crate::discard::Worker`]
    /// ([`crate::Discarder::helped`]).
    pub splits: Option<Arc<SplitQueue>>,
}

impl Chores {
    /// The task that does them. It is never freed: a companion may outlive everything else of its
    /// program.
    #[must_use]
    pub fn into_task(self) -> Task {
        let state = State { chores: self, tables_due: None };
        let state = Box::into_raw(Box::new(state));
        // SAFETY: the state is never freed. `step` allocates nothing, takes no lock, uses no
        // thread-local storage and doesn't panic, as `Regulator` and `SplitQueue` guarantee; it
        // opens its own descriptors; killed at any instruction, it leaves a fence that the kernel
        // takes down, or a split that somebody else does again.
        unsafe { Task::new(step, state.cast()) }
    }
}

struct State {
    chores: Chores,
    /// Nothing before the first step.
    tables_due: Option<Instant>,
}

/// After a step that could not be taken.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);
/// How long a huge page may wait for the companion.
const SPLITS_EVERY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_secs(1);

unsafe extern "C" fn step(state: *mut c_void) -> u64 {
    // SAFETY: what `into_task` made, which nobody else knows.
    let state = unsafe { &mut *state.cast::<State>() };
    let tables = state.tables();
    let splits = state.chores.splits.as_ref().map_or(IDLE, |queue| {
        queue.split_offered();
        SPLITS_EVERY
    });
    u64::try_from(tables.min(splits).as_nanos()).unwrap_or(u64::MAX)
}

impl State {
    /// Keeps the limits, if a step is due, and says when the next one is.
    fn tables(&mut self) -> Duration {
        let Some(regulator) = &mut self.chores.tables else { return IDLE };
        let now = Instant::now();
        match self.tables_due {
            None => urgency::short_bursts(),
            Some(due) if now < due => return due.saturating_duration_since(now),
            Some(_) => {}
        }
        let wait = regulator.step().map_or(AFTER_AN_ERROR, |step| step.wait);
        self.tables_due = Instant::now().checked_add(wait);
        wait
    }
}
