//! Somebody who takes memory and frees it, so that a thread that returns memory has something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use recoup::pool::{Background, OwnerOptions, Pool, ReturnSettings};
use recoup_core::Chunks;
use recoup_testkit::figure::note;

/// How much it takes at a time: more than an owner keeps at hand.
const AT_A_TIME: Chunks = Chunks(32);
/// How long it rests in between.
const REST: Duration = Duration::from_millis(10);

/// A thread that returns memory, and one that gives it some, until it is stopped.
pub(super) struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    background: Background,
}

impl Bystander {
    /// It frees 64 MiB some 100 times a second: a gigabyte, which is the threshold, in a sixth of a
    /// second.
    pub(super) fn start(pool: &Pool) -> Self {
        let background = pool.return_in_background(ReturnSettings::default()).expect("a thread");
        let stop = Arc::new(AtomicBool::new(false));
        let owner = pool.owner(OwnerOptions::default()).expect("an owner");
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let mut taken = owner.chunks(AT_A_TIME).expect("room");
                taken.iter_mut().step_by(2 << 20).for_each(|byte| *byte = 1);
                drop(taken);
                std::thread::sleep(REST);
            }
        });
        Self { stop, thread, background }
    }

    /// Says what was returned meanwhile.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bystander");
        note("returned meanwhile", &format!("{} MiB", self.background.stop().bytes.0 >> 20));
    }
}
