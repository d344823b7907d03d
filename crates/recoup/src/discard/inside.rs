//! Whether this thread is in a discarder already: then an allocator calls from within its own hooks,
//! and the lock that it would wait for is held by itself.

use std::cell::Cell;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is in a discarder, until it is dropped.
#[derive(Debug)]
pub(super) struct Inside(());

impl Inside {
    /// Nothing if the thread is in one already.
    pub(super) fn enter() -> Option<Self> {
        IS_INSIDE.with(|inside| !inside.replace(true)).then_some(Self(()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IS_INSIDE.with(|inside| inside.set(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_enters_once_at_a_time() {
        let first = Inside::enter();
        assert!(first.is_some() && Inside::enter().is_none());
        assert!(std::thread::spawn(|| Inside::enter().is_some()).join().expect("a thread"));
        drop(first);
        assert!(Inside::enter().is_some());
    }
}
