//! Compaction plans, carried out.

#![cfg(all(not(loom), feature = "alloc"))]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use recoup_core::compact::{Plan, most_emptied, plan};
use recoup_core::hints::{Extent, FreeMemory};
use recoup_core::superchunk::Backing;
use recoup_core::{Account, Alignment, ChunkRun, Chunks, OwnerId, PoolBook};
use recoup_core::{Superchunk, SuperchunkIdx};

type Book = PoolBook<Vec<Superchunk>>;

/// A pool with extents of these lengths, of which some were freed again.
struct Pool {
    book: Book,
    account: Account,
    extents: Vec<ChunkRun>,
}

impl Pool {
    fn new(superchunks: u64, lengths: &[u64], alignment: Alignment) -> Self {
        let storage = (0..superchunks).map(|_| Superchunk::default()).collect();
        let mut book: Book = PoolBook::new(storage).expect("few superchunks");
        for at in 0..superchunks {
            book.attach(SuperchunkIdx(at), Backing::OnTouch).expect("a new superchunk");
        }
        let owner = OwnerId::new(1).expect("not 0");
        let mut account = Account::new(owner, Chunks(u64::MAX));
        let mut extents = Vec::new();
        for &length in lengths {
            let grant = book.allocate(&mut account, Chunks(length), alignment);
            extents.extend(grant.map(|grant| grant.extent));
        }
        extents.sort();
        Self { book, account, extents }
    }

    /// A pool of which every chunk is handed out singly, but for those at these places.
    fn full_but(superchunks: u64, freed: impl IntoIterator<Item = usize>) -> Self {
        let lengths = vec![1; usize::try_from(superchunks * 512).expect("few chunks")];
        let mut pool = Self::new(superchunks, &lengths, Alignment::Chunk);
        pool.free(freed);
        pool
    }

    fn free(&mut self, places: impl IntoIterator<Item = usize>) {
        for place in places {
            self.book.free(&mut self.account, self.extents[place]).expect("freed once");
        }
    }

    /// Carries a plan out, and detaches what it emptied. Says how many moves that took.
    fn carry_out(&mut self, plan: &Plan) -> usize {
        let owner = self.account.owner();
        let used = self.account.used();
        let extents_before = self.lengths();
        for &step in &plan.moves {
            self.book.begin_move(owner, step).expect("the plan is up to date");
            self.book.finish_move(owner, step).expect("nothing happened meanwhile");
        }
        assert_eq!(self.book.validate(), Ok(()));
        for &at in &plan.emptied {
            self.book.detach(at).expect("the plan emptied it");
        }
        assert_eq!((self.book.held_by(owner), self.lengths()), (used, extents_before));
        plan.moves.len()
    }

    /// How many extents there are of each length.
    fn lengths(&self) -> BTreeMap<usize, usize> {
        let mut lengths = BTreeMap::new();
        for extent in self.book.superchunks().iter().flat_map(Superchunk::extents) {
            *lengths.entry(extent.len()).or_default() += 1;
        }
        lengths
    }
}

/// The most superchunks that can be emptied, by trying every set of them.
fn most_of_any_set(book: &Book) -> usize {
    let superchunks = book.superchunks();
    let fits = |set: usize| {
        let parts = superchunks.iter().enumerate().map(|(at, superchunk)| {
            let chosen = set >> at & 1 == 1;
            match chosen {
                true if superchunk.pinned() > 0 => None,
                true => Some((superchunk.allocated(), 0)),
                false => Some((0, superchunk.tally().takeable)),
            }
        });
        let parts: Option<Vec<_>> = parts.collect();
        parts.is_some_and(|parts| {
            parts.iter().map(|part| part.0).sum::<usize>()
                <= parts.iter().map(|part| part.1).sum::<usize>()
        })
    };
    let sets = (0..1_usize << superchunks.len()).filter(|&set| fits(set));
    sets.map(|set| set.count_ones() as usize).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "too many chunks")]
    fn single_chunks_leave_as_many_superchunks_as_any_set_could(
        superchunks in 1_u64..7,
        keep in 0_usize..100,
        salt in any::<u32>(),
        pins in vec(any::<prop::sample::Index>(), 0..3),
    ) {
        // Each chunk stays with the same probability, in percent.
        let chance = |place: usize| {
            let mixed = (place as u64 ^ u64::from(salt)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 33) % 100 >= keep as u64
        };
        let all = usize::try_from(superchunks).unwrap() * 512;
        let mut pool = Pool::full_but(superchunks, (0..all).filter(|&place| chance(place)));
        let kept: Vec<usize> = (0..all).filter(|&place| !chance(place)).collect();
        for pin in pins.iter().filter(|_| !kept.is_empty()) {
            pool.book.pin(&pool.account, pool.extents[kept[pin.index(kept.len())]]).unwrap();
        }
        let expected = most_of_any_set(&pool.book);
        let plan = plan(pool.book.superchunks());
        prop_assert_eq!((plan.emptied.len(), most_emptied(pool.book.superchunks())), (expected, expected));
        pool.carry_out(&plan);
        prop_assert_eq!(most_emptied(pool.book.superchunks()), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many chunks")]
    fn longer_extents_move_whole_and_keep_their_alignment(
        lengths in vec(1_u64..40, 1..150),
        freed in vec(any::<prop::sample::Index>(), 0..100),
        alignment in prop::sample::select(vec![Alignment::Chunk, Alignment::Natural]),
    ) {
        let mut pool = Pool::new(4, &lengths, alignment);
        let mut places: Vec<usize> = freed.iter().map(|at| at.index(pool.extents.len())).collect();
        places.sort_unstable();
        places.dedup();
        pool.free(places);
        let plan = plan(pool.book.superchunks());
        prop_assert!(plan.emptied.len() <= most_emptied(pool.book.superchunks()));
        for step in &plan.moves {
            prop_assert_eq!(step.from.length(), step.to.length());
            let natural = step.from.slots().len().next_power_of_two();
            if alignment == Alignment::Natural {
                prop_assert_eq!(step.to.start().slot() % natural, 0);
            }
        }
        pool.carry_out(&plan);
    }
}

#[test]
fn the_sparsest_superchunk_is_emptied_into_the_other() {
    let mut pool = Pool::new(2, &[300, 100, 200], Alignment::Chunk);
    pool.free([pool.extents.iter().position(|extent| extent.length() == Chunks(300)).unwrap()]);
    let plan = plan(pool.book.superchunks());
    assert_eq!((plan.emptied.len(), plan.moves.len()), (1, 1));
    assert_eq!(plan.moves[0].from.length(), Chunks(100));
    pool.carry_out(&plan);
}

#[test]
#[cfg_attr(miri, ignore = "too many chunks")]
fn half_full_at_random_gives_half_of_it_back() {
    // As good as at random.
    let every_other = (0..16 * 512_usize).filter(|place| place.count_ones() % 2 == 0);
    let mut pool = Pool::full_but(16, every_other);
    let plan = plan(pool.book.superchunks());
    assert_eq!(plan.emptied.len(), 8);
    assert_eq!(pool.carry_out(&plan), 8 * 256);
}

#[test]
#[cfg_attr(miri, ignore = "too many chunks")]
fn nothing_moves_where_nothing_can_be_emptied() {
    let pool = Pool::full_but(2, 0..500);
    assert_eq!(plan(pool.book.superchunks()), Plan::default());
}

#[test]
#[cfg_attr(miri, ignore = "too many chunks")]
fn a_pinned_extent_never_moves_and_its_superchunk_is_filled() {
    let mut pool = Pool::full_but(2, (1..512).chain(600..1024));
    pool.book.pin(&pool.account, pool.extents[0]).unwrap();
    let plan = plan(pool.book.superchunks());
    assert_eq!(plan.emptied, [SuperchunkIdx(1)]);
    assert!(plan.moves.iter().all(|step| step.to.superchunk() == SuperchunkIdx(0)));
    assert_eq!(pool.carry_out(&plan), 88);
}

#[test]
#[cfg_attr(miri, ignore = "too many chunks")]
fn what_is_in_flight_is_neither_a_target_nor_emptied() {
    let mut pool = Pool::full_but(2, (0..256).chain(512..768));
    let extent = Extent { index: 0, order: 9 };
    assert!(pool.book.isolate(extent) && pool.book.send(extent));
    assert_eq!(plan(pool.book.superchunks()), Plan::default());
}

#[test]
#[cfg_attr(miri, ignore = "too many chunks")]
fn extents_that_do_not_fit_whole_stay_where_they_are() {
    // Each is free by half, but in pieces shorter than the extents of the other.
    let lengths: Vec<u64> = (0..256).flat_map(|_| [1, 3]).collect();
    let mut pool = Pool::new(2, &lengths, Alignment::Chunk);
    let ones = pool.extents.iter().enumerate().filter(|(_, extent)| extent.length() == Chunks(1));
    let ones: Vec<usize> = ones.map(|(place, _)| place).collect();
    pool.free(ones);
    assert_eq!(plan(pool.book.superchunks()).moves, []);
}
