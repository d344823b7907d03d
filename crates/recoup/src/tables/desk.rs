//! Where one thread leaves a job for another, and takes it back if nobody has begun it.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A place for one job at a time, between one who gives and one who does.
#[derive(Debug)]
pub(super) struct Desk<J, R> {
    state: Mutex<State<J, R>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<J, R> {
    Empty,
    Given(J),
    Begun,
    Done(R),
    Closed,
}

impl<J, R> Desk<J, R> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Empty), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<J, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<J, R>>) -> MutexGuard<'a, State<J, R>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job there. For the one who gives, who has collected what came of the last.
    pub(super) fn give(&self, job: J) {
        let mut state = self.state();
        if !matches!(*state, State::Closed) {
            *state = State::Given(job);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What came of the job, as soon as it is done; nothing if nobody has begun it: then nobody will.
    pub(super) fn collect(&self) -> Option<R> {
        let mut state = self.state();
        while matches!(*state, State::Begun) {
            state = self.wait(state);
        }
        match std::mem::replace(&mut *state, State::Empty) {
            State::Done(result) => Some(result),
            State::Closed => {
                *state = State::Closed;
                None
            }
            State::Empty | State::Given(_) | State::Begun => None,
        }
    }

    /// Waits for the next job; nothing once the desk is closed. For the one who does, who then says
    /// what came of it ([`Desk::done`]).
    pub(super) fn take(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            match std::mem::replace(&mut *state, State::Begun) {
                State::Given(job) => return Some(job),
                State::Closed => {
                    *state = State::Closed;
                    return None;
                }
                other => *state = other,
            }
            state = self.wait(state);
        }
    }

    /// Says what came of the job that was taken.
    pub(super) fn done(&self, result: R) {
        let mut state = self.state();
        if !matches!(*state, State::Closed) {
            *state = State::Done(result);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// No job is given or taken from here on.
    pub(super) fn close(&self) {
        *self.state() = State::Closed;
        self.changed.notify_all();
    }
}
