//! Random operations on a pool's book, against a naive one. A failure prints its operations in a
//! form that can be pasted into [`replay`].

// Too much for miri, which sees the same code in the other tests.
#![cfg(not(any(loom, miri)))]

mod naive;

use Backing::{OnTouch, Used, Zeroed};
use Fate::{Kept, Returned};
use Op::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use recoup_core::hints::{Extent, Fate, FreeMemory};
use recoup_core::refusal::{NotDetached, NotMoved, NotYours, Refused};
use recoup_core::superchunk::{Backing, ChunkState};
use recoup_core::{Account, Alignment, ChunkRun, Chunks, Grant, Move, OwnerId, PoolBook};
use recoup_core::{Superchunk, SuperchunkIdx};

use naive::{Chunk, Naive, whole};

type Book = PoolBook<Vec<Superchunk>>;

/// Superchunks that the storage is for; operations name one more.
const SUPERCHUNKS: u64 = 3;
/// All chunks are compared after so many operations.
const COMPARED: usize = 8;
/// What the owners may have. Together it is more than there is.
const LIMITS: [u64; 3] = [200, 900, 1500];

/// An operation. `pick` names the extent of that number, counted around; where memory is to be given
/// back, the extent around one of the chunks that are in a state for that, or nearly.
#[derive(Clone, Copy, Debug)]
enum Op {
    Attach(u64, Backing),
    Detach(u64),
    Allocate {
        owner: usize,
        length: u64,
        alignment: Alignment,
    },
    /// An allocation that is cancelled before it is used.
    AllocateInVain {
        owner: usize,
        length: u64,
        alignment: Alignment,
    },
    Free {
        pick: usize,
    },
    FreeAs {
        owner: usize,
        pick: usize,
    },
    FreePart {
        pick: usize,
        length: u64,
    },
    Split {
        pick: usize,
        length: u64,
    },
    Pin {
        pick: usize,
    },
    Unpin {
        pick: usize,
    },
    Isolate {
        pick: usize,
        order: u8,
    },
    Restore {
        pick: usize,
        order: u8,
    },
    Send {
        pick: usize,
        order: u8,
    },
    Settle {
        pick: usize,
        order: u8,
        fate: Fate,
    },
    Begin {
        pick: usize,
        to: u64,
    },
    Finish,
    Cancel,
}

fn any_op() -> impl Strategy<Value = Op> {
    let superchunk = || 0..=SUPERCHUNKS;
    let length = || prop_oneof![6 => 1_u64..4, 3 => 4_u64..60, 2 => 100_u64..513, 1 => 0_u64..600];
    let alignment = || select(vec![Alignment::Chunk, Alignment::Natural]);
    let order = || prop_oneof![6 => Just(9_u8), 3 => 10_u8..13, 1 => 0_u8..20];
    let backing = select(vec![OnTouch, Zeroed, Used]);
    let fate = select(vec![Returned, Kept]);
    let pick = || 0_usize..64;
    prop_oneof![
        3 => (superchunk(), backing).prop_map(|(at, backing)| Attach(at, backing)),
        1 => superchunk().prop_map(Detach),
        12 => (0..LIMITS.len(), length(), alignment())
            .prop_map(|(owner, length, alignment)| Allocate { owner, length, alignment }),
        3 => (0..LIMITS.len(), length(), alignment())
            .prop_map(|(owner, length, alignment)| AllocateInVain { owner, length, alignment }),
        8 => pick().prop_map(|pick| Free { pick }),
        1 => (0..LIMITS.len(), pick()).prop_map(|(owner, pick)| FreeAs { owner, pick }),
        1 => (pick(), 1_u64..5).prop_map(|(pick, length)| FreePart { pick, length }),
        2 => (pick(), 0_u64..5).prop_map(|(pick, length)| Split { pick, length }),
        1 => pick().prop_map(|pick| Pin { pick }),
        1 => pick().prop_map(|pick| Unpin { pick }),
        6 => (pick(), order()).prop_map(|(pick, order)| Isolate { pick, order }),
        1 => (pick(), order()).prop_map(|(pick, order)| Restore { pick, order }),
        4 => (pick(), order()).prop_map(|(pick, order)| Send { pick, order }),
        3 => (pick(), order(), fate)
            .prop_map(|(pick, order, fate)| Settle { pick, order, fate }),
        2 => (pick(), 0_u64..1600).prop_map(|(pick, to)| Begin { pick, to }),
        2 => Just(Finish),
        1 => Just(Cancel),
    ]
}

/// Operations on a pool that mostly has all its superchunks from the start.
fn any_ops() -> impl Strategy<Value = Vec<Op>> {
    let backing = || select(vec![OnTouch, Zeroed, Used]);
    let start = (backing(), backing(), backing()).prop_map(|(first, second, third)| {
        vec![Attach(0, first), Attach(1, second), Attach(2, third)]
    });
    let rest = vec(any_op(), 1..150);
    (start, rest).prop_map(|(start, rest)| [start, rest].concat())
}

/// The target of a move, as the book and as its model know it.
struct Target {
    grant: Grant,
    before: Vec<Chunk>,
}

/// The book and its model, which every step compares.
struct Pair {
    book: Book,
    accounts: Vec<Account>,
    naive: Naive,
    /// The move under way, and what its target held before.
    under_way: Option<(OwnerId, Move, Target)>,
}

fn replay(ops: &[Op]) {
    let storage = (0..SUPERCHUNKS).map(|_| Superchunk::default()).collect();
    let account = |(number, &limit)| Account::new(owner(number), Chunks(limit));
    let mut pair = Pair {
        book: PoolBook::new(storage).expect("few superchunks"),
        accounts: LIMITS.iter().enumerate().map(account).collect(),
        naive: Naive::new(SUPERCHUNKS),
        under_way: None,
    };
    for (step, &op) in ops.iter().enumerate() {
        pair.step(op);
        if step % COMPARED == 0 {
            pair.compare();
        }
    }
    pair.compare();
}

fn owner(number: usize) -> OwnerId {
    let number = u32::try_from(number + 1).ok();
    number.and_then(OwnerId::new).expect("one of a few")
}

impl Pair {
    fn step(&mut self, op: Op) {
        match op {
            Attach(at, backing) => self.attach(SuperchunkIdx(at), backing),
            Detach(at) => self.detach(SuperchunkIdx(at)),
            Allocate { owner, length, alignment } => {
                self.allocate(owner, length, alignment);
            }
            AllocateInVain { owner, length, alignment } => {
                if let Some((grant, before)) = self.allocate(owner, length, alignment) {
                    self.book.cancel(&mut self.accounts[owner], &grant).expect("just granted");
                    self.naive.untake(grant.extent, &before);
                }
            }
            Free { pick } => self.with(pick, |pair, extent, holder| pair.free(extent, holder)),
            FreeAs { owner: number, pick } => {
                self.with(pick, |pair, extent, _| pair.free(extent, owner(number)));
            }
            FreePart { pick, length } => self.with(pick, |pair, extent, holder| {
                let part = ChunkRun::new(extent.start(), Chunks(length));
                part.into_iter().for_each(|part| pair.free(part, holder));
            }),
            Split { pick, length } => self.with(pick, |pair, it, by| pair.split(it, by, length)),
            Pin { pick } => self.with(pick, |pair, extent, holder| {
                pair.book.pin(&pair.accounts[index(holder)], extent).expect("its extent");
                pair.naive.set(extent, |chunk| chunk.state = ChunkState::Pinned);
            }),
            Unpin { pick } => self.with(pick, |pair, extent, holder| {
                pair.book.unpin(&pair.accounts[index(holder)], extent).expect("its extent");
                pair.naive.set(extent, |chunk| chunk.state = ChunkState::Held);
            }),
            Isolate { pick, order } => {
                let extent = self.around(pick, order, |state| state == ChunkState::Warm);
                assert_eq!(self.book.isolate(extent), self.naive.isolate(extent));
            }
            Restore { pick, order } => {
                let extent = self.around(pick, order, is_going_back);
                self.book.restore(extent);
                self.naive.restore(extent);
            }
            Send { pick, order } => {
                let extent = self.around(pick, order, is_going_back);
                assert_eq!(self.book.send(extent), self.naive.send(extent));
            }
            Settle { pick, order, fate } => {
                let extent = self.around(pick, order, is_going_back);
                self.book.settle(extent, fate);
                self.naive.settle(extent, fate);
            }
            Begin { pick, to } => {
                self.with(pick, |pair, from, holder| pair.begin(from, holder, to))
            }
            Finish => {
                if let Some((holder, step, _)) = self.under_way.take() {
                    self.book.finish_move(holder, step).expect("a move under way");
                    self.naive.free(step.from);
                }
            }
            Cancel => {
                if let Some((holder, step, target)) = self.under_way.take() {
                    self.book.cancel_move(holder, &target.grant).expect("a move under way");
                    self.naive.untake(step.to, &target.before);
                }
            }
        }
    }

    /// The extent of an order around a chunk in such a state, or around the first of all.
    fn around(&self, pick: usize, order: u8, is_meant: fn(ChunkState) -> bool) -> Extent {
        let chunks = self.naive.all_that(|chunk| is_meant(chunk.state));
        let chunk = chunks.get(pick % chunks.len().max(1)).copied().unwrap_or(0);
        Extent { index: chunk >> order.saturating_sub(9), order }
    }

    /// Does something with an extent, if there is one that is not being moved.
    fn with(&mut self, pick: usize, apply: impl FnOnce(&mut Self, ChunkRun, OwnerId)) {
        let moved = self.under_way.as_ref().map(|(_, step, _)| [step.from, step.to]);
        let extents = self.naive.extents.values().copied();
        let still = extents.filter(|(extent, _)| !moved.is_some_and(|two| two.contains(extent)));
        let extents: Vec<_> = still.collect();
        if let Some(&(extent, holder)) = extents.get(pick % extents.len().max(1)) {
            apply(self, extent, holder);
        }
    }

    fn attach(&mut self, at: SuperchunkIdx, backing: Backing) {
        let accepted = at.0 < SUPERCHUNKS && !self.naive.has(at);
        assert_eq!(self.book.attach(at, backing).is_ok(), accepted);
        if accepted {
            self.naive.attach(at, backing);
        }
    }

    fn detach(&mut self, at: SuperchunkIdx) {
        let expected = if !self.naive.has(at) {
            Err(NotDetached::Absent(at))
        } else if !self.naive.all(whole(at), Chunk::is_takeable) {
            Err(NotDetached::InUse(at))
        } else {
            Ok(())
        };
        assert_eq!(self.book.detach(at), expected);
        if expected.is_ok() {
            self.naive.detach(at);
        }
    }

    /// Says what was granted, and what was there before.
    fn allocate(
        &mut self,
        number: usize,
        length: u64,
        alignment: Alignment,
    ) -> Option<(Grant, Vec<Chunk>)> {
        let account = &mut self.accounts[number];
        let within = account.used().0 + length <= LIMITS[number];
        let result = self.book.allocate(account, Chunks(length), alignment);
        let step = match alignment {
            Alignment::Chunk => 1,
            Alignment::Natural => length.next_power_of_two(),
        };
        let fits = self.naive.fits((length, step));
        let grant = match result {
            Ok(grant) => grant,
            Err(Refused::Quota(exceeded)) => {
                assert!(!within && exceeded.asked == Chunks(length));
                return None;
            }
            Err(refused) => {
                assert_eq!(refused, self.expected_refusal(length, step));
                return None;
            }
        };
        assert!(within);
        let (fit, lowest) = fits[&grant.extent.superchunk()];
        let expected = self.naive.prefer_own(lowest, owner(number));
        assert_eq!(grant.extent, expected, "a lower place was free");
        assert_eq!(Some(fit), fits.values().map(|&(fit, _)| fit).min(), "better was to be had");
        let before = self.naive.take(grant.extent, owner(number));
        assert_granted(&grant, &before, owner(number));
        Some((grant, before))
    }

    fn expected_refusal(&self, length: u64, alignment: u64) -> Refused {
        if !(1..=Chunks::SUPERCHUNK.0).contains(&length) {
            return Refused::Length(Chunks(length));
        }
        assert!(self.naive.fits((length, alignment)).is_empty(), "there was room");
        let waits_for = |&at: &u64| {
            let at = SuperchunkIdx(at);
            let unused = |chunk: &Chunk| !chunk.is_allocated();
            self.naive.lowest(at, (length, alignment), unused).is_some()
        };
        if (0..SUPERCHUNKS).any(|at| waits_for(&at)) {
            return Refused::Busy;
        }
        let free = self.naive.all_that(Chunk::is_takeable).len();
        Refused::Exhausted { asked: Chunks(length), free: Chunks(free as u64) }
    }

    fn split(&mut self, extent: ChunkRun, holder: OwnerId, length: u64) {
        let length = Chunks(length);
        let result = self.book.split(&self.accounts[index(holder)], extent, length);
        let is_pinned = self.naive.all(extent, |chunk| chunk.state == ChunkState::Pinned);
        if is_pinned || !(1..extent.length().0).contains(&length.0) {
            return assert!(result.is_err());
        }
        let (first, rest) = result.expect("a part of it");
        assert_eq!((first.start(), first.length()), (extent.start(), length));
        assert_eq!(
            (rest.start(), rest.length()),
            (extent.start() + length, extent.length() - length)
        );
        self.naive.extents.insert(first.start(), (first, holder));
        self.naive.extents.insert(rest.start(), (rest, holder));
    }

    fn free(&mut self, extent: ChunkRun, as_owner: OwnerId) {
        let known = self.naive.extents.get(&extent.start()).filter(|(whole, _)| *whole == extent);
        let pinned = self.naive.all(extent, |chunk| chunk.state == ChunkState::Pinned);
        let expected = match known {
            None => Err(NotYours::NoExtent(extent)),
            Some(&(_, owner)) if owner != as_owner => Err(NotYours::Others { extent, owner }),
            Some(_) if pinned => Err(NotYours::Pinned(extent)),
            Some(_) => Ok(()),
        };
        assert_eq!(self.book.free(&mut self.accounts[index(as_owner)], extent), expected);
        if expected.is_ok() {
            self.naive.free(extent);
        }
    }

    fn begin(&mut self, from: ChunkRun, holder: OwnerId, to: u64) {
        let start = SuperchunkIdx(0).first_chunk() + Chunks(to);
        let (None, Some(to)) = (&self.under_way, ChunkRun::new(start, from.length())) else {
            return;
        };
        let step = Move { from, to };
        let expected = if self.naive.all(from, |chunk| chunk.state == ChunkState::Pinned) {
            Err(NotMoved::Source(NotYours::Pinned(from)))
        } else if !self.naive.all(to, Chunk::is_takeable) {
            Err(NotMoved::Target(to))
        } else {
            Ok(())
        };
        let result = self.book.begin_move(holder, step);
        assert_eq!(result.map(|_| ()), expected);
        if let Ok(grant) = result {
            let before = self.naive.take(to, holder);
            assert_granted(&grant, &before, holder);
            self.under_way = Some((holder, step, Target { grant, before }));
        }
    }

    fn compare(&self) {
        assert_eq!(self.book.validate(), Ok(()));
        for (at, superchunk) in self.book.superchunks().iter().enumerate() {
            let at = SuperchunkIdx(at as u64);
            assert_eq!(superchunk.is_present(), self.naive.has(at));
            for chunk in whole(at).chunks() {
                let (slot, Some(expected)) = (chunk.slot(), self.naive.chunk(chunk)) else { break };
                assert_eq!(superchunk.state(slot), expected.state, "chunk {chunk}");
                assert_eq!(superchunk.bytes_of(slot), expected.bytes_of, "chunk {chunk}");
            }
            assert_eq!(superchunk.backed(), self.naive.count_backed(at));
            let extents = superchunk.extents().map(|slots| (slots.start, slots.len()));
            assert!(extents.eq(self.naive.extents_of(at)));
        }
        for account in &self.accounts {
            let moving = self.under_way.as_ref().filter(|(holder, ..)| *holder == account.owner());
            let twice = moving.map_or(Chunks::ZERO, |(_, step, _)| step.to.length());
            assert_eq!(self.book.held_by(account.owner()), account.used() + twice);
        }
    }
}

/// A grant says what was there before.
fn assert_granted(grant: &Grant, before: &[Chunk], owner: OwnerId) {
    let slots = |holds: &dyn Fn(&Chunk) -> bool| {
        let places = grant.extent.slots().zip(before);
        places.filter(|(_, chunk)| holds(chunk)).map(|(slot, _)| slot).collect::<Vec<_>>()
    };
    let foreign = slots(&|chunk| chunk.bytes_of.is_some_and(|last| last != owner));
    assert!(grant.foreign.ones().eq(foreign));
    assert!(grant.cold.ones().eq(slots(&|chunk| !chunk.backed)));
}

fn is_going_back(state: ChunkState) -> bool {
    matches!(state, ChunkState::Isolated | ChunkState::InFlight)
}

fn index(owner: OwnerId) -> usize {
    owner.get() as usize - 1
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_book_says_what_a_naive_one_says(ops in any_ops()) {
        replay(&ops);
    }
}

#[test]
fn an_isolated_chunk_is_taken_before_a_cold_one_but_after_a_warm_one() {
    let (length, alignment) = (1, Alignment::Chunk);
    let (pick, order) = (0, 9);
    replay(&[
        Attach(0, OnTouch),
        Allocate { owner: 0, length: 2, alignment },
        Free { pick },
        Isolate { pick, order },
        Allocate { owner: 0, length, alignment },
        Allocate { owner: 0, length, alignment },
        Allocate { owner: 0, length, alignment },
    ]);
}

#[test]
fn who_could_only_get_what_is_in_flight_is_told_so() {
    let (owner, length, alignment) = (2, 512, Alignment::Natural);
    let (pick, order) = (0, 18);
    replay(&[
        Attach(0, Zeroed),
        Isolate { pick, order },
        Send { pick, order },
        Allocate { owner, length, alignment },
        Settle { pick, order, fate: Returned },
        Allocate { owner, length, alignment },
        Allocate { owner, length, alignment },
    ]);
}

#[test]
fn a_backed_place_is_preferred_even_where_the_superchunk_offers_less() {
    // The first has one warm chunk, the second many that are about to be given back.
    let (owner, alignment) = (2, Alignment::Chunk);
    replay(&[
        Attach(0, OnTouch),
        Allocate { owner, length: 1, alignment },
        Free { pick: 0 },
        Attach(1, Zeroed),
        Isolate { pick: 1, order: 18 },
        Allocate { owner, length: 2, alignment },
    ]);
}
