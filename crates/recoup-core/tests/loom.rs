//! All orders in which a hint map's two writers can meet, as loom explores them. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p recoup-core --release --test loom`.

#![cfg(loom)]

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use recoup_core::hints::{Due, Extent, Fate, FreeMemory, HintMap, Return, Settings, Word, Worker};
use recoup_core::refusal::Refused;
use recoup_core::superchunk::{Backing, ChunkState};
use recoup_core::{Account, Alignment, ChunkRun, Chunks, OwnerId, PoolBook};
use recoup_core::{Superchunk, SuperchunkIdx};

type Hints = HintMap<Vec<Word>>;
type Book = PoolBook<Vec<Superchunk>>;

const SETTINGS: Settings = Settings { order: 9, per_request: 1, threshold: 1, deadline_ns: 0 };

fn hints() -> Arc<Hints> {
    Arc::new(HintMap::new(vec![Word::new(0)]))
}

/// A pool of which only `extents` chunks can be had, all of them backed and the owner's.
fn pool(extents: u64) -> (Arc<Mutex<Book>>, Account) {
    let mut book = PoolBook::new(vec![Superchunk::default()]).unwrap();
    book.attach(SuperchunkIdx(0), Backing::OnTouch).unwrap();
    let [owner, other] = [1, 2].map(|number| OwnerId::new(number).unwrap());
    let mut account = Account::new(owner, Chunks(512));
    for _ in 0..extents {
        book.allocate(&mut account, Chunks(1), Alignment::Chunk).unwrap();
    }
    let mut rest = Account::new(other, Chunks(512));
    book.allocate(&mut rest, Chunks(512 - extents), Alignment::Chunk).unwrap();
    (Arc::new(Mutex::new(book)), account)
}

fn chunk(slot: u64) -> ChunkRun {
    ChunkRun::new(SuperchunkIdx(0).first_chunk() + Chunks(slot), Chunks(1)).unwrap()
}

/// A shared book: locked for each call, and only so long.
struct Shared(Arc<Mutex<Book>>);

impl FreeMemory for Shared {
    fn isolate(&mut self, extent: Extent) -> bool {
        self.0.lock().unwrap().isolate(extent)
    }

    fn restore(&mut self, extent: Extent) {
        self.0.lock().unwrap().restore(extent);
    }

    fn send(&mut self, extent: Extent) -> bool {
        self.0.lock().unwrap().send(extent)
    }

    fn settle(&mut self, extent: Extent, fate: Fate) {
        self.0.lock().unwrap().settle(extent, fate);
    }
}

/// The bytes of two chunks, and how a discard changes them.
#[derive(Clone)]
struct Memory(Arc<[AtomicU64; 2]>);

impl Memory {
    fn new() -> Self {
        Self(Arc::new([AtomicU64::new(1), AtomicU64::new(1)]))
    }

    fn at(&self, slot: usize) -> &AtomicU64 {
        &self.0[slot]
    }
}

impl Return for Memory {
    type Error = ();

    fn give_back(&mut self, extents: &[Extent]) -> Result<(), ()> {
        for extent in extents {
            self.at(usize::try_from(extent.index).unwrap()).store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A transport for those who only count.
struct Nowhere;

impl Return for Nowhere {
    type Error = ();

    fn give_back(&mut self, _extents: &[Extent]) -> Result<(), ()> {
        Ok(())
    }
}

#[test]
fn hints_of_two_freers_in_one_word_are_both_kept_and_counted() {
    loom::model(|| {
        let hints = hints();
        let other = {
            let hints = Arc::clone(&hints);
            thread::spawn(move || hints.hint(0..2))
        };
        hints.hint(1..3);
        other.join().unwrap();
        assert_eq!(hints.pending(), 3);
    });
}

#[test]
fn a_hint_beside_the_one_that_is_taken_is_kept() {
    loom::model(|| {
        let (book, _) = pool(0);
        let hints = hints();
        hints.hint(0..1);
        let freer = {
            let hints = Arc::clone(&hints);
            thread::spawn(move || hints.hint(1..2))
        };
        let mut worker = Worker::<2>::new(SETTINGS);
        worker.round(&hints, &mut Shared(Arc::clone(&book)), &mut Nowhere).unwrap();
        freer.join().unwrap();
        worker.round(&hints, &mut Shared(book), &mut Nowhere).unwrap();
        assert_eq!((worker.stats().looked_at, hints.pending()), (2, 0));
    });
}

/// A book without a lock, and without an order of its own: is its one extent free?
struct Unordered(Arc<AtomicBool>);

impl FreeMemory for Unordered {
    fn isolate(&mut self, _extent: Extent) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn restore(&mut self, _extent: Extent) {}

    fn send(&mut self, _extent: Extent) -> bool {
        true
    }

    fn settle(&mut self, _extent: Extent, _fate: Fate) {}
}

#[test]
fn who_takes_a_hint_sees_the_memory_as_free() {
    loom::model(|| {
        let (free, hints) = (Arc::new(AtomicBool::new(false)), hints());
        hints.hint(0..1);
        let freer = {
            let (free, hints) = (Arc::clone(&free), Arc::clone(&hints));
            thread::spawn(move || {
                free.store(true, Ordering::Relaxed);
                hints.hint(0..1);
            })
        };
        let mut worker = Worker::<1>::new(SETTINGS);
        let round = worker.round(&hints, &mut Unordered(free), &mut Nowhere).unwrap();
        freer.join().unwrap();
        assert!(round.returned + hints.pending() >= 1, "the free was forgotten");
    });
}

#[test]
fn no_free_is_forgotten_whenever_the_worker_looks() {
    loom::model(|| {
        let (book, mut account) = pool(1);
        let hints = hints();
        // Of an earlier free: the worker is about to look at it, but the chunk is in use again.
        hints.hint(0..1);
        let freer = {
            let (book, hints) = (Arc::clone(&book), Arc::clone(&hints));
            thread::spawn(move || {
                book.lock().unwrap().free(&mut account, chunk(0)).unwrap();
                hints.hint(0..1);
            })
        };
        let mut worker = Worker::<1>::new(SETTINGS);
        worker.round(&hints, &mut Shared(Arc::clone(&book)), &mut Nowhere).unwrap();
        freer.join().unwrap();
        let state = book.lock().unwrap().superchunks()[0].state(0);
        let expected = match state {
            ChunkState::Cold => 0..=1,
            _ => 1..=1,
        };
        assert!(expected.contains(&hints.pending()), "{state:?} with {}", hints.pending());
        // And the count has not drifted.
        while worker.due(hints.pending(), 0) == Due::Now {
            worker.round(&hints, &mut Shared(Arc::clone(&book)), &mut Nowhere).unwrap();
        }
        assert_eq!(hints.pending(), 0);
        assert_eq!(book.lock().unwrap().superchunks()[0].state(0), ChunkState::Cold);
    });
}

#[test]
fn memory_that_an_allocation_got_is_never_given_back() {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(3);
    explorer.check(|| {
        let (book, mut account) = pool(2);
        let (hints, memory) = (hints(), Memory::new());
        for slot in 0..2 {
            book.lock().unwrap().free(&mut account, chunk(slot)).unwrap();
        }
        hints.hint(0..2);
        let user = {
            let (book, memory) = (Arc::clone(&book), memory.clone());
            thread::spawn(move || {
                let grant =
                    book.lock().unwrap().allocate(&mut account, Chunks(1), Alignment::Chunk);
                // One extent at most is in flight: the other is to be had.
                let slot = grant.unwrap().extent.start().slot();
                memory.at(slot).store(7, Ordering::Relaxed);
                slot
            })
        };
        let mut worker = Worker::<2>::new(SETTINGS);
        worker.round(&hints, &mut Shared(Arc::clone(&book)), &mut memory.clone()).unwrap();
        let slot = user.join().unwrap();
        assert_eq!(memory.at(slot).load(Ordering::Relaxed), 7);
        book.lock().unwrap().validate().unwrap();
    });
}

#[test]
fn who_needs_what_is_in_flight_is_told_so_and_gets_it_after_one_request() {
    loom::model(|| {
        let (book, mut account) = pool(1);
        let (hints, memory) = (hints(), Memory::new());
        book.lock().unwrap().free(&mut account, chunk(0)).unwrap();
        hints.hint(0..1);
        let worker = {
            let (book, mut memory) = (Arc::clone(&book), memory.clone());
            thread::spawn(move || {
                Worker::<1>::new(SETTINGS).round(&hints, &mut Shared(book), &mut memory)
            })
        };
        let mut ask = || book.lock().unwrap().allocate(&mut account, Chunks(1), Alignment::Chunk);
        let granted = ask();
        if granted.is_ok() {
            memory.at(0).store(7, Ordering::Relaxed);
        }
        worker.join().unwrap().unwrap();
        if granted.is_ok() {
            assert_eq!(memory.at(0).load(Ordering::Relaxed), 7);
        } else {
            assert_eq!(granted, Err(Refused::Busy));
            assert!(ask().is_ok());
        }
    });
}
