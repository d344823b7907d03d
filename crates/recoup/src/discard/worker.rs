//! Splits in the background, so that those who give memory back need not.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use recoup_sys::Bytes;

use super::Discarder;

/// A thread that keeps what waits for a split below an amount, until it is dropped.
///
/// Given less than the bound of [`super::SplitPolicy::Bounded`], it spares the discarding threads
/// nearly all splits; the bound holds whether it keeps up or not.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    discarder: Arc<Discarder>,
    stop: AtomicBool,
}

impl Worker {
    /// Starts one that splits whatever waits beyond `keep`.
    ///
    /// # Errors
    /// Where no thread can be made; `AlreadyExists` if the discarder has a worker.
    pub fn start(discarder: Arc<Discarder>, keep: Bytes) -> io::Result<Self> {
        let only = discarder.wake_beyond.compare_exchange(
            u64::MAX,
            keep.0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if only.is_err() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this discarder has a worker already",
            ));
        }
        let shared = Arc::new(Shared { discarder, stop: AtomicBool::new(false) });
        let its_own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("recoup-split".to_owned())
            .spawn(move || its_own.run(keep));
        // Without a thread this still is one, whose end tells the discarder.
        let mut worker = Self { shared, thread: None };
        worker.thread = Some(thread?);
        Ok(worker)
    }
}

impl Shared {
    fn run(&self, keep: Bytes) {
        let idle = |book: &mut super::book::Book| {
            book.waiting().bytes() <= keep && !self.stop.load(Ordering::Relaxed)
        };
        loop {
            let book = self.discarder.book();
            let woken = self.discarder.wake.wait_while(book, idle);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
            // What cannot be split no longer counts as waiting, so this makes progress anyway; who
            // discards is told.
            let stopping = self.stop.load(Ordering::Relaxed);
            if stopping {
                return;
            }
            let _ = self.discarder.split_waiting(keep);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.discarder.wake_beyond.store(u64::MAX, Ordering::Relaxed);
        let book = self.shared.discarder.book();
        // Under the lock, so that the worker cannot miss it between its look and its sleep.
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(book);
        self.shared.discarder.wake.notify_all();
        // A thread that has panicked needs no more than to be gone.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
