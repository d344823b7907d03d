//! All orders in which two workers can meet at their board, as loom explores them. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p recoup --release --lib orders`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

// What the tests note is std's: no order of it is explored.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loom::thread::{self, JoinHandle};
use recoup_sys::{PageIdx, PageRange, Pages};

use super::board::Board;
use super::gain::{Advice, Gain};

/// A crew whose slices are numbers.
#[derive(Clone)]
struct Crew {
    board: Arc<Board<u64>>,
    /// Once for each time that it was handed out.
    done: Arc<Mutex<Vec<u64>>>,
    hired: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Crew {
    fn new(slices: u64, most: usize) -> Self {
        let board = Board::new((0..slices).collect(), Gain::new(most));
        Self { board: Arc::new(board), done: Arc::default(), hired: Arc::default() }
    }

    fn hire(&self) {
        let crew = self.clone();
        let hired = thread::spawn(move || {
            crew.board.enlist();
            crew.work();
        });
        self.hired.lock().unwrap().push(hired);
    }

    fn work(&self) {
        while let Some(slice) = self.board.next() {
            self.done.lock().unwrap().push(slice);
            // A second worker gains nothing: as much is done in each second.
            let pages = PageRange::starting_at(PageIdx(slice), Pages(1));
            let (advice, _) = self.board.note(pages, Ok(()), Duration::from_secs(slice));
            if advice == Advice::Grow {
                self.hire();
            }
        }
    }

    /// Works until everybody has left; what was done by all, the workers at once, and what is left.
    fn finish(self) -> (Vec<u64>, usize, Vec<u64>) {
        self.board.enlist();
        self.work();
        loop {
            let Some(hired) = self.hired.lock().unwrap().pop() else { break };
            hired.join().unwrap();
        }
        let mut done = std::mem::take(&mut *self.done.lock().unwrap());
        done.sort_unstable();
        let (tally, left) = Arc::into_inner(self.board).expect("all have left").close();
        assert_eq!(tally.freed, Pages(done.len() as u64).bytes());
        (done, tally.workers, left)
    }
}

/// Explores the orders with few changes between threads at a point where none has to wait: all that
/// are known to find something, in seconds.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(3);
    explorer.check(model);
}

fn all(slices: u64) -> Vec<u64> {
    (0..slices).collect()
}

#[test]
fn each_slice_is_done_once_by_workers_who_come_and_go() {
    // Two until a second worker is hired, four until it is found out to be of no use.
    const SLICES: u64 = 8;
    explore(|| {
        let (done, workers, left) = Crew::new(SLICES, 2).finish();
        assert_eq!((done, left), (all(SLICES), Vec::new()));
        assert!((1..=2).contains(&workers));
    });
}

#[test]
fn each_slice_is_done_once_by_two_from_the_start() {
    explore(|| {
        let crew = Crew::new(3, 1);
        crew.hire();
        let (done, _, left) = crew.finish();
        assert_eq!((done, left), (all(3), Vec::new()));
    });
}

#[test]
fn what_is_cancelled_is_done_or_left_and_no_slice_is_begun_after() {
    explore(|| {
        let crew = Crew::new(3, 1);
        crew.hire();
        crew.board.cancel();
        let before = crew.done.lock().unwrap().len();
        let (done, _, left) = crew.finish();
        // The other may have had one in hand.
        assert!(done.len() <= before + 1, "{before} {done:?}");
        assert_eq!([done, left].concat(), all(3));
    });
}
