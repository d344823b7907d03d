//! The threads that free slices together.

use std::thread::{self, Scope};
use std::time::Instant;

use recoup_sys::PageRange;
use recoup_sys::own::Released;

use super::board::Board;
use super::gain::{Advice, Gain};
use super::{Freed, Options, Workers};

/// Frees all slices.
pub(super) fn run<'a>(slices: Vec<Released<'a>>, options: &Options<'_>) -> Freed<'a> {
    let (most, first) = match options.workers {
        Workers::Adaptive(most) => (most.get(), 1),
        Workers::Exactly(count) => (1, count.get()),
    };
    let first = first.min(slices.len()).max(1);
    let board = Board::new(slices, Gain::new(most));
    let crew = Crew { board, options, began: Instant::now() };
    thread::scope(|scope| {
        for _ in 1..first {
            crew.hire(scope);
        }
        crew.board.enlist();
        crew.work(scope);
    });
    let (tally, untouched) = crew.board.close();
    let (freed, failures, workers) = (tally.freed, tally.failures, tally.workers);
    Freed { freed, failures, untouched, workers }
}

struct Crew<'a, 'o> {
    board: Board<Released<'a>>,
    options: &'o Options<'o>,
    began: Instant,
}

impl Crew<'_, '_> {
    /// Adds a worker, if a thread can be had.
    fn hire<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let name = "recoup-free".to_owned();
        let spawned = thread::Builder::new().name(name).spawn_scoped(scope, || {
            self.board.enlist();
            self.work(scope);
        });
        // Without one the others do its part.
        drop(spawned);
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        while let Some(slice) = self.board.next() {
            let pages = slice.pages();
            let result = slice.discard();
            if self.done(pages, result) == Advice::Grow {
                self.hire(scope);
            }
        }
    }

    /// Notes what became of a slice and tells whoever wants to know.
    fn done(&self, pages: PageRange, result: recoup_sys::Result<()>) -> Advice {
        let (advice, so_far) = self.board.note(pages, result, self.began.elapsed());
        if let Some(progress) = self.options.progress
            && progress(so_far).is_break()
        {
            self.board.cancel();
        }
        advice
    }
}
