//! Splits in the background, so that those who give memory back need not.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use recoup_sys::Bytes;

use super::Discarder;
use super::bell::Call;

/// A thread that keeps what waits for a split below an amount, until it is dropped.
///
/// Given less than the bound of [`super::SplitPolicy::Bounded`], it spares the discarding threads
/// nearly all splits; the bound holds whether it keeps up or not.
#[derive(Debug)]
pub struct Worker {
    discarder: Arc<Discarder>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts one that splits whatever waits beyond `keep`.
    ///
    /// # Errors
    /// Where no thread can be made; `AlreadyExists` if the discarder has a worker.
    pub fn start(discarder: Arc<Discarder>, keep: Bytes) -> io::Result<Self> {
        if !discarder.bell.occupy(keep) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this discarder has a worker already",
            ));
        }
        let its_own = Arc::clone(&discarder);
        // Without a thread this still is one, whose end tells the discarder.
        let mut worker = Self { discarder, thread: None };
        let thread = std::thread::Builder::new()
            .name("recoup-split".to_owned())
            .spawn(move || run(&its_own, keep));
        worker.thread = Some(thread?);
        Ok(worker)
    }
}

fn run(discarder: &Discarder, keep: Bytes) {
    let quiet = |book: &mut super::book::Book| book.waiting().bytes() <= keep;
    while discarder.bell.sleep(discarder.book(), quiet) == Call::Work {
        // What cannot be split no longer counts as waiting, so this makes progress anyway; who
        // discards is told.
        let _ = discarder.split_waiting(keep);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.discarder.bell.end(self.discarder.book());
        // A thread that has panicked needs no more than to be gone.
        let _ = self.thread.take().map(JoinHandle::join);
        self.discarder.bell.vacate();
    }
}
