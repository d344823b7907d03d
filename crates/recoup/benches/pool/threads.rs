//! Several threads that do the same at the same time.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use recoup_testkit::ratio::cpu_time;

/// What some threads took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// By the clock, for all of them.
    pub(super) clock: Duration,
    /// By their processors.
    pub(super) processor: Duration,
}

/// What it takes so many threads to do something so many times. Each makes ready first, which does not
/// count.
pub(super) fn by_threads<W: FnMut()>(
    threads: usize,
    times: usize,
    make_ready: impl Fn() -> W + Sync,
) -> Times {
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let work = || {
            let mut once = make_ready();
            start.wait();
            cpu_time(|| (0..times).for_each(|_| once()))
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        start.wait();
        let began = Instant::now();
        let processor = workers.into_iter().map(|worker| worker.join().expect("a worker")).sum();
        Times { clock: began.elapsed(), processor }
    })
}
