//! What a worker does with hints, step by step.

#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};

use recoup_core::hints::{
    BATCH, Due, Extent, FreeMemory, HintMap, Return, Settings, Stats, Word, Worker,
};
use recoup_core::superchunk::{Backing, ChunkState};
use recoup_core::{Account, Alignment, Chunks, OwnerId, PoolBook, Superchunk, SuperchunkIdx};

type Book = PoolBook<Vec<Superchunk>>;

const SETTINGS: Settings = Settings { order: 9, per_request: 1, threshold: 8, deadline_ns: 1000 };

fn hints() -> HintMap<Vec<Word>> {
    HintMap::new((0..8).map(|_| Word::new(0)).collect())
}

/// A pool of one superchunk that is free and backed.
fn pool() -> (Book, Account) {
    let mut book: Book = PoolBook::new(vec![Superchunk::default()]).expect("one superchunk");
    book.attach(SuperchunkIdx(0), Backing::Zeroed).expect("a new superchunk");
    let owner = OwnerId::new(1).expect("not 0");
    (book, Account::new(owner, Chunks(512)))
}

fn states(book: &Book, state: ChunkState) -> usize {
    (0..512).filter(|&slot| book.superchunks()[0].state(slot) == state).count()
}

/// Writes down what it is asked for, and fails at some request.
#[derive(Default)]
struct Recorder {
    requests: Vec<Vec<u64>>,
    fails_at: Option<usize>,
}

impl Return for Recorder {
    type Error = usize;

    fn give_back(&mut self, extents: &[Extent]) -> Result<(), usize> {
        if self.fails_at == Some(self.requests.len()) {
            return Err(self.requests.len());
        }
        self.requests.push(extents.iter().map(|extent| extent.index).collect());
        Ok(())
    }
}

#[test]
fn only_what_is_still_free_is_given_back() {
    let (mut book, mut account) = pool();
    book.allocate(&mut account, Chunks(3), Alignment::Chunk).unwrap();
    let (hints, mut transport) = (hints(), Recorder::default());
    hints.hint(0..5);
    let mut worker = Worker::<BATCH>::new(SETTINGS);
    worker.round(&hints, &mut book, &mut transport).unwrap();
    assert_eq!(transport.requests, [[3], [4]]);
    assert_eq!((states(&book, ChunkState::Held), states(&book, ChunkState::Cold)), (3, 2));
    let expected = Stats { looked_at: 5, in_use: 3, returned: 2, ..Stats::default() };
    assert_eq!((worker.stats(), hints.pending()), (expected, 0));
}

#[test]
fn a_batch_and_a_request_are_no_larger_than_asked_for() {
    let ((mut book, _), hints, mut transport) = (pool(), hints(), Recorder::default());
    hints.hint(60..100);
    let mut worker = Worker::<16>::new(Settings { per_request: 6, ..SETTINGS });
    let round = worker.round(&hints, &mut book, &mut transport).unwrap();
    assert_eq!((round.isolated, round.returned, hints.pending()), (16, 16, 24));
    let lengths: Vec<usize> = transport.requests.iter().map(Vec::len).collect();
    assert_eq!(lengths, [6, 6, 4]);
    // The next round goes on where this one ended.
    hints.hint(0..1);
    worker.round(&hints, &mut book, &mut transport).unwrap();
    assert_eq!(transport.requests[3], [76, 77, 78, 79, 80, 81]);
}

#[test]
fn whatever_is_due_is_looked_at_once_enough_has_gathered_or_waited() {
    let mut worker = Worker::<1>::new(SETTINGS);
    assert_eq!(worker.due(0, 0), Due::Idle);
    assert_eq!(worker.due(1, 100), Due::At(1100));
    assert_eq!(worker.due(7, 1099), Due::At(1100), "the deadline is the first one's");
    assert_eq!(worker.due(7, 1100), Due::Now);
    let ((mut book, _), hints) = (pool(), hints());
    hints.hint(0..7);
    for left in (0..7).rev() {
        assert_eq!(worker.due(hints.pending(), 1200), Due::Now);
        worker.round(&hints, &mut book, &mut Recorder::default()).unwrap();
        assert_eq!(hints.pending(), left);
    }
    hints.hint(7..8);
    assert_eq!(worker.due(hints.pending(), 1200), Due::At(2200), "a deadline of its own");
    assert_eq!(worker.due(8, 1200), Due::Now, "the threshold");
}

#[test]
fn after_a_failure_everything_is_back_and_the_rest_is_hinted_again() {
    let ((mut book, _), hints) = (pool(), hints());
    hints.hint(0..10);
    let mut worker = Worker::<16>::new(Settings { per_request: 2, ..SETTINGS });
    let mut transport = Recorder { fails_at: Some(2), ..Recorder::default() };
    assert_eq!(worker.round(&hints, &mut book, &mut transport), Err(2));
    assert_eq!((states(&book, ChunkState::Cold), states(&book, ChunkState::Warm)), (4, 508));
    let expected = Stats { looked_at: 10, returned: 4, failed: 2, ..Stats::default() };
    assert_eq!((worker.stats(), hints.pending()), (expected, 4));
    assert_eq!(book.validate(), Ok(()));
}

#[test]
fn after_a_panic_everything_is_back() {
    struct Panics;
    impl Return for Panics {
        type Error = ();
        fn give_back(&mut self, _extents: &[Extent]) -> Result<(), ()> {
            panic!("a transport that is broken")
        }
    }
    let ((mut book, _), hints) = (pool(), hints());
    hints.hint(0..4);
    let mut worker = Worker::<4>::new(SETTINGS);
    let round = AssertUnwindSafe(|| worker.round(&hints, &mut book, &mut Panics));
    assert!(catch_unwind(round).is_err());
    assert_eq!(states(&book, ChunkState::Warm), 512);
    assert_eq!(book.validate(), Ok(()));
}

/// A book of which somebody takes so many chunks, if they can be had, whenever something is sent.
struct Contended {
    book: Book,
    account: Account,
    takes: usize,
}

impl FreeMemory for Contended {
    fn isolate(&mut self, extent: Extent) -> bool {
        self.book.isolate(extent)
    }

    fn restore(&mut self, extent: Extent) {
        self.book.restore(extent);
    }

    fn send(&mut self, extent: Extent) -> bool {
        let sent = self.book.send(extent);
        for _ in 0..self.takes {
            let _ = self.book.allocate(&mut self.account, Chunks(1), Alignment::Chunk);
        }
        sent
    }

    fn settle(&mut self, extent: Extent, fate: recoup_core::hints::Fate) {
        self.book.settle(extent, fate);
    }
}

#[test]
fn an_allocation_takes_all_but_the_one_extent_that_is_in_flight() {
    let ((book, account), hints) = (pool(), hints());
    hints.hint(0..16);
    let mut contended = Contended { book, account, takes: 512 };
    let mut worker = Worker::<16>::new(SETTINGS);
    let mut transport = Recorder::default();
    worker.round(&hints, &mut contended, &mut transport).unwrap();
    assert_eq!(transport.requests, [[0]]);
    // And that one right after its request.
    assert_eq!(contended.account.used(), Chunks(512));
    assert_eq!(worker.stats().stolen, 15);
    assert_eq!(contended.book.validate(), Ok(()));
}

#[test]
fn a_larger_extent_is_given_back_only_whole() {
    let ((mut book, mut account), hints) = (pool(), hints());
    book.allocate(&mut account, Chunks(1), Alignment::Chunk).unwrap();
    hints.hint(0..2);
    let mut worker = Worker::<16>::new(Settings { order: 12, ..SETTINGS });
    let mut transport = Recorder::default();
    worker.round(&hints, &mut book, &mut transport).unwrap();
    assert_eq!(transport.requests, [[1]]);
    assert!((8..16).all(|slot| book.superchunks()[0].state(slot) == ChunkState::Cold));
}

#[test]
fn what_is_left_of_an_extent_that_was_taken_in_part_is_free_again() {
    let ((mut book, mut account), hints) = (pool(), hints());
    // All that is free is two extents of four chunks.
    book.allocate(&mut account, Chunks(504), Alignment::Chunk).unwrap();
    hints.hint(126..128);
    let mut contended = Contended { book, account, takes: 1 };
    let mut worker = Worker::<16>::new(Settings { order: 11, ..SETTINGS });
    worker.round(&hints, &mut contended, &mut Recorder::default()).unwrap();
    assert_eq!((worker.stats().returned, worker.stats().stolen), (1, 1));
    // The second chunk was taken when the rest was free again, before the first extent came back.
    let count = |state| states(&contended.book, state);
    assert_eq!((count(ChunkState::Cold), count(ChunkState::Warm)), (4, 2));
    assert_eq!(count(ChunkState::Isolated), 0);
}

#[test]
fn a_hint_past_the_end_is_dropped() {
    let hints = hints();
    assert_eq!(hints.hint(510..600), 2);
    assert_eq!(hints.hint(1000..1001), 2);
    assert_eq!(hints.hint(63..65), 4);
    assert_eq!(hints.hint(64..65), 4, "a hint is counted once");
}
