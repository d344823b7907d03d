//! Threads that write memory and read it back without a pause: whoever touches it is found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use recoup_sys::Bytes;
use recoup_sys::region::Region;

/// What each thread writes over and over.
const LENGTH: usize = 8 << 20;
const STEP: usize = 512;

pub(crate) struct Hammer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, u64)>>,
}

impl Hammer {
    pub(crate) fn start(threads: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |seed| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || hammer(seed, &stop))
        };
        Self { threads: (0..threads).map(start).collect(), stop }
    }

    /// Rounds and wrong values.
    pub(crate) fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let (mut rounds, mut wrong) = (0, 0);
        for thread in self.threads {
            let (more, bad) = thread.join().unwrap_or((0, 1));
            (rounds, wrong) = (rounds + more, wrong + bad);
        }
        format!("{rounds} rounds, {wrong} wrong")
    }
}

fn hammer(seed: u64, stop: &AtomicBool) -> (u64, u64) {
    let Ok(mut region) = Region::new(Bytes(LENGTH as u64)) else { return (0, 1) };
    let (mut round, mut wrong) = (0_u64, 0);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let value = |offset: usize| (offset as u64 ^ round << 32 ^ seed << 56).to_ne_bytes();
        for offset in (0..LENGTH).step_by(STEP) {
            region.write(offset, &value(offset));
        }
        let mut found = [0; 8];
        for offset in (0..LENGTH).step_by(STEP) {
            region.read(offset, &mut found);
            wrong += u64::from(found != value(offset));
        }
        // Allocating and freeing takes the allocator's locks, which a dying thread may hold.
        drop(std::hint::black_box(vec![seed; 100 + usize::from(found[0])]));
    }
    (round, wrong)
}
