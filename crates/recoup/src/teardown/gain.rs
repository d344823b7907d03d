//! Whether one more worker is worth it. Pure arithmetic: time is handed in.

use std::time::Duration;

use recoup_sys::Bytes;

/// A further worker has to make it faster by so much: 10 %.
const WORTH_IT: f64 = 1.1;
/// So many slices a worker are measured before deciding.
const SLICES_A_WORKER: usize = 2;

/// What to do after a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Go on.
    Stay,
    /// Add a worker.
    Grow,
    /// The last worker gained nothing: do without it.
    Shrink,
}

/// Compares throughputs.
#[derive(Debug)]
pub(super) struct Gain {
    workers: usize,
    most: usize,
    /// Bytes a second with one worker fewer.
    before: f64,
    since: Duration,
    slices: usize,
    done: Bytes,
    settled: bool,
}

impl Gain {
    /// Starts with one worker.
    pub(super) fn new(most: usize) -> Self {
        Self {
            workers: 1,
            most,
            before: 0.0,
            since: Duration::ZERO,
            slices: 0,
            done: Bytes::ZERO,
            settled: most <= 1,
        }
    }

    /// A slice of this size is done, so long after the beginning.
    pub(super) fn observe(&mut self, slice: Bytes, now: Duration) -> Advice {
        if self.settled {
            return Advice::Stay;
        }
        self.slices += 1;
        self.done += slice;
        if self.slices < SLICES_A_WORKER * self.workers {
            return Advice::Stay;
        }
        let rate = self.done.0 as f64 / now.saturating_sub(self.since).as_secs_f64().max(1e-9);
        let gained = rate >= self.before * WORTH_IT;
        (self.before, self.since, self.slices, self.done) = (rate, now, 0, Bytes::ZERO);
        if !gained {
            self.settled = true;
            self.workers -= 1;
            return Advice::Shrink;
        }
        if self.workers == self.most {
            self.settled = true;
            return Advice::Stay;
        }
        self.workers += 1;
        Advice::Grow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workers in the end, where this many can work at once without hindering each other.
    fn settle(parallel: f64, most: usize) -> usize {
        let mut gain = Gain::new(most);
        let (mut workers, mut now) = (1_usize, 0.0);
        for _ in 0..1000 {
            now += 0.003 / (workers as f64).min(parallel);
            match gain.observe(Bytes(32 << 20), Duration::from_secs_f64(now)) {
                Advice::Stay => {}
                Advice::Grow => workers += 1,
                Advice::Shrink => workers -= 1,
            }
        }
        workers
    }

    #[test]
    fn workers_are_added_as_long_as_they_gain() {
        assert_eq!(settle(1.0, 8), 1);
        assert_eq!(settle(2.0, 8), 2);
        assert_eq!(settle(3.5, 8), 4);
        assert_eq!(settle(100.0, 8), 8);
    }

    #[test]
    fn one_allowed_worker_stays_alone() {
        assert_eq!(settle(100.0, 1), 1);
    }
}
