//! All orders in which those who free memory and the thread that gives it back can meet, as loom explores
//! them. Run by `RUSTFLAGS="--cfg loom" cargo test -p recoup --release --lib orders`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::bell::{Bell, Call};
use super::transit::Transit;

/// A pool as the bell sees it.
struct Pool {
    bell: Bell,
    /// Owners' locks, with what they keep at hand.
    owners: [Mutex<usize>; 2],
    hints: AtomicUsize,
}

/// Where an owner puts what it frees.
#[derive(Clone, Copy)]
enum To {
    Hand,
    Book,
}

impl Pool {
    fn new(threshold: usize) -> Arc<Self> {
        let pool = Self {
            bell: Bell::default(),
            owners: [0, 0].map(Mutex::new),
            hints: AtomicUsize::new(0),
        };
        pool.bell.listen(threshold).unwrap();
        Arc::new(pool)
    }

    fn free(&self, owner: usize, to: To) {
        let mut spares = self.owners[owner].lock().unwrap();
        let pending = match to {
            To::Hand => {
                *spares += 1;
                0
            }
            To::Book => self.hints.fetch_add(1, Ordering::Relaxed) + 1,
        };
        self.bell.freed(pending);
    }

    /// The thread's rounds, until it has seen so much; spares are given up at once, as if their time
    /// had come.
    fn give_back(&self, all: usize) {
        let mut done = 0;
        while done < all {
            done += self.hints.swap(0, Ordering::Relaxed);
            done += self
                .owners
                .iter()
                .map(|it| std::mem::take(&mut *it.lock().unwrap()))
                .sum::<usize>();
            let has_spares = || self.owners.iter().any(|it| *it.lock().unwrap() > 0);
            let has_hints = || self.hints.load(Ordering::Relaxed) > 0;
            if self.bell.can_sleep_long(has_spares, has_hints) && done < all {
                // Sleeps for ever if it misses the bell, which loom tells.
                assert_eq!(self.bell.wait(None), Call::Work);
            }
        }
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(3);
    explorer.check(model);
}

#[test]
fn whatever_is_freed_during_a_long_sleep_ends_it() {
    for to in [To::Hand, To::Book] {
        explore(move || {
            let pool = Pool::new(usize::MAX);
            let freeing = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.free(0, to))
            };
            pool.give_back(1);
            freeing.join().unwrap();
        });
    }
}

#[test]
fn two_who_free_at_once_are_both_heard() {
    explore(|| {
        let pool = Pool::new(usize::MAX);
        let freeing = [0, 1].map(|owner| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.free(owner, To::Book))
        });
        pool.give_back(2);
        freeing.into_iter().for_each(|one| one.join().unwrap());
    });
}

#[test]
fn who_is_to_stop_does_not_sleep_on() {
    loom::model(|| {
        let pool = Pool::new(usize::MAX);
        let thread = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || while pool.bell.wait(None) == Call::Work {})
        };
        pool.free(0, To::Book);
        pool.bell.silence();
        thread.join().unwrap();
    });
}

#[test]
fn who_waits_finds_all_that_had_set_out() {
    explore(|| {
        let shared = Arc::new((Transit::default(), AtomicUsize::new(0)));
        let slow = shared.0.set_out();
        let fast = {
            let shared = Arc::clone(&shared);
            // Sets out later and may arrive sooner.
            thread::spawn(move || drop(shared.0.set_out()))
        };
        let waits = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.wait();
                assert_eq!(shared.1.load(Ordering::Relaxed), 1);
            })
        };
        shared.1.store(1, Ordering::Relaxed);
        drop(slow);
        fast.join().unwrap();
        waits.join().unwrap();
    });
}
