//! All orders in which a discarder's threads and its helper can meet, as loom explores them. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p recoup --release --lib orders`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use recoup_sys::blockset::BlockSet;
use recoup_sys::{Bytes, PageIdx, PageRange, Pages};

use super::bell::{Bell, Call};
use super::book::{Book, Due, Mapped};
use super::slots::Slots;

const BLOCK: PageIdx = PageIdx(512);

/// Holes at one place of each word, so that a mixture of two can be told.
fn holes(place: u64) -> BlockSet {
    let mut holes = BlockSet::default();
    for word in 0..BlockSet::WORDS as u64 {
        holes.insert(PageRange::starting_at(PageIdx(word * 64 + place), Pages(1)));
    }
    holes
}

/// Explores all orders with few changes between threads at a point where none has to wait.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = Some(3);
    explorer.check(model);
}

#[test]
fn who_is_offered_a_block_sees_its_holes() {
    loom::model(|| {
        let slots = Arc::new(Slots::<1>::new());
        let helper = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                slots.serve(|block, seen| assert_eq!((block, seen), (BLOCK, &holes(3))))
            })
        };
        assert!(slots.offer(BLOCK, &holes(3)));
        helper.join().unwrap();
    });
}

/// What became of a block that was offered, as the holder of the book sees it: split, or taken back.
fn end_of_the_offer(slots: &Slots<1>, split: &AtomicBool) -> (u32, u32) {
    let mut done = 0;
    slots.collect(|seen| {
        done += 1;
        assert_eq!(seen, holes(3));
        assert!(split.load(Ordering::Relaxed), "it counts as split and is not");
    });
    (done, slots.take_back().map_or(0, |_| 1))
}

#[test]
fn what_counts_as_done_has_been_split_and_only_the_rest_can_be_taken_back() {
    loom::model(|| {
        let (slots, split) = (Arc::new(Slots::<1>::new()), Arc::new(AtomicBool::new(false)));
        assert!(slots.offer(BLOCK, &holes(3)));
        let book = {
            let (slots, split) = (Arc::clone(&slots), Arc::clone(&split));
            thread::spawn(move || end_of_the_offer(&slots, &split))
        };
        slots.serve(|_, _| split.store(true, Ordering::Relaxed));
        let (mut done, back) = book.join().unwrap();
        slots.collect(|_| done += 1);
        assert_eq!(done + back, 1, "{done} done, {back} taken back");
    });
}

/// The helper looks at a first offer while the block is taken back, and offered again with other
/// holes: the second counts as done only if the helper has split by its holes.
#[test]
fn a_block_that_is_offered_anew_is_not_taken_for_the_first_one() {
    explore(|| {
        let (slots, split_by) = (Arc::new(Slots::<1>::new()), Arc::new(AtomicU64::new(0)));
        assert!(slots.offer(BLOCK, &holes(3)));
        let helper = {
            let (slots, split_by) = (Arc::clone(&slots), Arc::clone(&split_by));
            thread::spawn(move || {
                slots.serve(|_, seen| {
                    let second = u64::from(*seen == holes(5));
                    split_by.store(second, Ordering::Relaxed);
                })
            })
        };
        if slots.take_back().is_some() {
            assert!(slots.offer(BLOCK, &holes(5)));
            slots.collect(|_| {
                assert_eq!(split_by.load(Ordering::Relaxed), 1, "split by the first one's holes");
            });
        }
        helper.join().unwrap();
    });
}

/// Bytes that wait, in place of a book.
type Waiting = Mutex<u64>;

fn quiet(waiting: &mut u64) -> bool {
    *waiting == 0
}

/// Something is given back: what a discarder does in `close`, and then.
fn give_back(book: &Waiting, bell: &Bell) {
    let waiting = {
        let mut book = book.lock().unwrap();
        *book += 1;
        *book
    };
    bell.ring(Bytes(waiting));
}

/// A worker that leaves after its first work, or when it is told to: whether it has worked.
fn work_once(book: &Waiting, bell: &Bell) -> Call {
    let call = bell.sleep(book.lock().unwrap(), quiet);
    if call == Call::Work {
        *book.lock().unwrap() = 0;
    }
    call
}

#[test]
fn a_worker_is_woken_whenever_something_is_given_back() {
    loom::model(|| {
        let shared = Arc::new((Mutex::new(0), Bell::new()));
        assert!(shared.1.occupy(Bytes(0)));
        let [worker, discarder] = [0, 1].map(|_| Arc::clone(&shared));
        // Waits for ever if the bell is missed, which loom tells.
        let worker = thread::spawn(move || work_once(&worker.0, &worker.1));
        let discarder = thread::spawn(move || give_back(&discarder.0, &discarder.1));
        discarder.join().unwrap();
        assert_eq!(worker.join().unwrap(), Call::Work);
    });
}

#[test]
fn a_worker_that_is_to_leave_does_not_sleep_on() {
    loom::model(|| {
        let shared = Arc::new((Mutex::new(0), Bell::new()));
        assert!(shared.1.occupy(Bytes(0)));
        let its_own = Arc::clone(&shared);
        let worker = thread::spawn(move || work_once(&its_own.0, &its_own.1));
        shared.1.end(shared.0.lock().unwrap());
        assert_eq!(worker.join().unwrap(), Call::Leave);
    });
}

/// One that lets everything wait leaves, another that lets nothing wait comes, and something is given
/// back: the other hears of it.
#[test]
fn the_next_worker_hears_its_own_bell() {
    explore(|| {
        let shared = Arc::new((Mutex::new(0), Bell::new()));
        assert!(shared.1.occupy(Bytes(9)));
        let [first, second, discarder] = [0, 1, 2].map(|_| Arc::clone(&shared));
        let first = thread::spawn(move || {
            let call = first.1.sleep(first.0.lock().unwrap(), |_| true);
            assert_eq!(call, Call::Leave);
        });
        let second = thread::spawn(move || {
            // Who comes too early is refused.
            if second.1.occupy(Bytes(0)) {
                assert_eq!(work_once(&second.0, &second.1), Call::Work);
            }
        });
        let discarder = thread::spawn(move || give_back(&discarder.0, &discarder.1));
        shared.1.end(shared.0.lock().unwrap());
        first.join().unwrap();
        shared.1.vacate();
        discarder.join().unwrap();
        second.join().unwrap();
    });
}

/// Two huge pages as the kernel has them: whether they are split, and pages stuck in each.
#[derive(Default)]
struct Kernel([(bool, u64); 2]);

impl Kernel {
    fn discard(&mut self, block: usize, pages: u64, bound: u64) {
        let (split, stuck) = &mut self.0[block];
        *stuck += if *split { 0 } else { pages };
        let all = self.0[0].1 + self.0[1].1;
        assert!(all <= bound, "{all} pages are stuck");
    }

    fn split(&mut self, block: PageIdx) {
        self.0[usize::try_from(block.0 / 512).unwrap()] = (true, 0);
    }
}

/// What a discarder does with a part of a huge page, in its order.
fn give_back_within(shared: &(Mutex<Book>, Mutex<Kernel>), block: usize, pages: u64, bound: u64) {
    let (book, kernel) = shared;
    let now = Duration::ZERO;
    let start = PageIdx(block as u64 * 512);
    let room = |book: &mut Book| {
        let too_much = book.waiting() > Pages(bound);
        if too_much { book.begin_fullest() } else { None }
    };
    let split = |block: PageIdx, holes: &BlockSet| {
        kernel.lock().unwrap().split(block);
        book.lock().unwrap().end_split(holes);
    };
    let make_room = || loop {
        let next = room(&mut book.lock().unwrap());
        let Some((block, holes)) = next else { return };
        split(block, &holes);
    };
    book.lock().unwrap().see(start, Mapped::Whole, now);
    book.lock().unwrap().note(PageRange::starting_at(start, Pages(pages)), now);
    make_room();
    let early = book.lock().unwrap().begin_early_split(start, Pages(bound).bytes());
    if let Some(holes) = early {
        split(start, &holes);
    }
    kernel.lock().unwrap().discard(block, pages, bound);
    book.lock().unwrap().gave_back(start, Due::Sometime);
    make_room();
}

#[test]
fn two_who_give_back_at_once_stay_within_their_bound_at_every_moment() {
    explore(|| {
        let shared = Arc::new((Mutex::new(Book::default()), Mutex::new(Kernel::default())));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || give_back_within(&shared, 1, 300, 400))
        };
        give_back_within(&shared, 0, 200, 400);
        other.join().unwrap();
    });
}
