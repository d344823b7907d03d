//! What wakes the worker of a discarder: the part of it that threads share.
//!
//! The book is whatever the discarder's lock protects; how much of it waits is asked, not known here.

use std::sync::PoisonError;

use recoup_sys::Bytes;

use crate::sync::{AtomicBool, AtomicU64, Condvar, MutexGuard, Ordering};

/// A bell for at most one worker at a time.
#[derive(Debug)]
pub(super) struct Bell {
    /// It is rung when more than this waits: [`Bell::SILENT`] where there is no worker.
    beyond: AtomicU64,
    /// Whether the worker is to leave. Set under the book's lock, so that the worker cannot miss it
    /// between its look and its sleep.
    ended: AtomicBool,
    rung: Condvar,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// There is something to do.
    Work,
    /// It leaves.
    Leave,
}

impl Bell {
    const SILENT: u64 = u64::MAX;

    pub(super) fn new() -> Self {
        let (beyond, ended) = (AtomicU64::new(Self::SILENT), AtomicBool::new(false));
        Self { beyond, ended, rung: Condvar::new() }
    }

    /// Takes the one worker's place; false if it is taken. It is left by [`Bell::vacate`].
    pub(super) fn occupy(&self, keep: Bytes) -> bool {
        // Acquire: with all that the last one's end has left.
        let (taken, missed) = (Ordering::Acquire, Ordering::Relaxed);
        self.beyond.compare_exchange(Self::SILENT, keep.0, taken, missed).is_ok()
    }

    /// Rings if so much is too much. Not under the book's lock: the worker would wake only to wait.
    pub(super) fn ring(&self, waiting: Bytes) {
        // Relaxed: a worker that this look misses has not looked at the book yet, which the caller
        // has just had locked, and will find there what waits.
        if waiting.0 > self.beyond.load(Ordering::Relaxed) {
            self.rung.notify_one();
        }
    }

    /// Sleeps as long as the book is quiet. For the worker.
    pub(super) fn sleep<B>(
        &self,
        mut book: MutexGuard<'_, B>,
        mut quiet: impl FnMut(&mut B) -> bool,
    ) -> Call {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return Call::Leave;
            }
            if !quiet(&mut book) {
                return Call::Work;
            }
            book = self.rung.wait(book).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the worker leave, whatever waits.
    pub(super) fn end<B>(&self, book: MutexGuard<'_, B>) {
        self.ended.store(true, Ordering::Relaxed);
        drop(book);
        self.rung.notify_one();
    }

    /// Makes room for another worker, once this one has left: before, it could hear what is meant for
    /// the other.
    pub(super) fn vacate(&self) {
        self.ended.store(false, Ordering::Relaxed);
        self.beyond.store(Self::SILENT, Ordering::Release);
    }
}
