//! Whether this thread is in a discarder or in an allocator's pool already. Then an allocator calls from
//! within its own hooks, or is called for the books of its own pool, and the lock that it would wait for is
//! held by itself.

use std::cell::Cell;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is in one of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside(());

impl Inside {
    /// Nothing if the thread is in one already. Allocates nothing, and works until the thread's end.
    pub(crate) fn enter() -> Option<Self> {
        // Lazily: a value made in vain would end, when dropped, what the other has begun.
        IS_INSIDE.with(|inside| !inside.replace(true)).then(|| Self(()))
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
        assert!(Inside::enter().is_none(), "who is refused does not leave for the other");
        assert!(std::thread::spawn(|| Inside::enter().is_some()).join().expect("a thread"));
        drop(first);
        assert!(Inside::enter().is_some());
    }
}
