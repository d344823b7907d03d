//! What the companion does for the program while that lives.

#![expect(unsafe_code, reason = "the promise of a task is made here, for the chores below")]

use std::ffi::c_void;
use std::time::Duration;

use recoup_sys::companion::Task;
use recoup_sys::urgency;

use crate::tables::Regulator;

/// After a step that could not be taken.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

/// Lets the companion keep limits on page tables, in place of a thread ([`crate::tables::Keeper`]).
/// If the companion is killed, whoever waits at its fence goes on, and the limits are kept no longer.
///
/// The regulator is never freed: a companion may outlive everything else of its program.
#[must_use]
pub fn keep_tables(regulator: Regulator) -> Task {
    let state = Box::into_raw(Box::new(State { regulator, begun: Begun::NotYet }));
    // SAFETY: the state is never freed. `step` allocates nothing, takes no lock, uses no
    // thread-local storage and doesn't panic, as `Regulator` guarantees; it opens its own
    // descriptors; killed at any instruction, it leaves a fence that the kernel takes down.
    unsafe { Task::new(step, state.cast()) }
}

struct State {
    regulator: Regulator,
    begun: Begun,
}

#[derive(PartialEq, Eq)]
enum Begun {
    NotYet,
    Yes,
}

unsafe extern "C" fn step(state: *mut c_void) -> u64 {
    // SAFETY: what `keep_tables` made, which nobody else knows.
    let state = unsafe { &mut *state.cast::<State>() };
    if state.begun == Begun::NotYet {
        urgency::short_bursts();
        state.begun = Begun::Yes;
    }
    let wait = state.regulator.step().map_or(AFTER_AN_ERROR, |step| step.wait);
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}
