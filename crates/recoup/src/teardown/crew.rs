//! The threads that free slices together.
//!
//! One lock keeps all that they share: the slices left, and what was done. It is held for less than a
//! microsecond a slice of at least 32 MiB, so nothing is gained by anything finer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use recoup_sys::own::Released;
use recoup_sys::{Bytes, PageRange};

use super::gain::{Advice, Gain};
use super::{Failure, Freed, Options, Workers};

/// Frees all slices.
pub(super) fn run<'a>(slices: Vec<Released<'a>>, options: &Options<'_>) -> Freed<'a> {
    let (most, first) = match options.workers {
        Workers::Adaptive(most) => (most.get(), 1),
        Workers::Exactly(count) => (1, count.get()),
    };
    let first = first.min(slices.len()).max(1);
    let board = Board {
        slices: slices.into_iter(),
        freed: Freed::default(),
        gain: Gain::new(most),
        working: 0,
        dismissed: 0,
        cancelled: false,
    };
    let crew = Crew { board: Mutex::new(board), options, began: Instant::now() };
    thread::scope(|scope| {
        for _ in 1..first {
            crew.hire(scope);
        }
        crew.enlist();
        crew.work(scope);
    });
    let Board { slices, mut freed, .. } =
        crew.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    freed.untouched = slices.collect();
    freed
}

struct Board<'a> {
    slices: std::vec::IntoIter<Released<'a>>,
    freed: Freed<'a>,
    gain: Gain,
    working: usize,
    /// Workers that are still to go.
    dismissed: usize,
    cancelled: bool,
}

struct Crew<'a, 'o> {
    board: Mutex<Board<'a>>,
    options: &'o Options<'o>,
    began: Instant,
}

impl<'a> Crew<'a, '_> {
    /// A panic in somebody's progress callback leaves the board as it is: still right.
    fn board(&self) -> MutexGuard<'_, Board<'a>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enlist(&self) {
        let mut board = self.board();
        board.working += 1;
        board.freed.workers = board.freed.workers.max(board.working);
    }

    /// Adds a worker, if a thread can be had.
    fn hire<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let name = "recoup-free".to_owned();
        let spawned = thread::Builder::new().name(name).spawn_scoped(scope, || {
            self.enlist();
            self.work(scope);
        });
        // Without one the others do its part.
        drop(spawned);
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        while let Some(slice) = self.next() {
            let pages = slice.pages();
            let result = slice.discard();
            if self.done(pages, result) == Advice::Grow {
                self.hire(scope);
            }
        }
    }

    /// The next slice; nothing if this worker is to go. The last one never is: only as many are
    /// dismissed as were hired on trial.
    fn next(&self) -> Option<Released<'a>> {
        let mut board = self.board();
        let dismissed = board.dismissed > 0 && board.working > 1;
        let slice = if dismissed {
            board.dismissed -= 1;
            None
        } else if board.cancelled {
            None
        } else {
            board.slices.next()
        };
        if slice.is_none() {
            board.working -= 1;
        }
        slice
    }

    /// Notes what became of a slice and tells whoever wants to know.
    fn done(&self, pages: PageRange, result: recoup_sys::Result<()>) -> Advice {
        let bytes = pages.length().bytes();
        let (advice, so_far) = self.board().note(pages, bytes, result, self.began.elapsed());
        if let Some(progress) = self.options.progress
            && progress(so_far).is_break()
        {
            self.board().cancelled = true;
        }
        advice
    }
}

impl Board<'_> {
    fn note(
        &mut self,
        pages: PageRange,
        bytes: Bytes,
        result: recoup_sys::Result<()>,
        now: Duration,
    ) -> (Advice, Bytes) {
        match result {
            Ok(()) => self.freed.freed += bytes,
            Err(error) => {
                let freed_before = self.freed.freed;
                self.freed.failures.push(Failure { pages, error, freed_before });
            }
        }
        let advice = self.gain.observe(bytes, now);
        if advice == Advice::Shrink {
            self.dismissed += 1;
        }
        (advice, self.freed.freed)
    }
}
