//! What a discarder and its helper share: places for blocks, without locks.
//!
//! Two writers to a slot: whoever holds the discarder's book offers a block, takes it back, or clears
//! what is done; the helper only ever turns `offered` into `done`. It may be killed at any
//! instruction: what it had is still offered then, and a block is split twice at worst.

use recoup_sys::PageIdx;
use recoup_sys::blockset::BlockSet;
use recoup_sys::units::PAGES_PER_BLOCK;

use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
struct Slot {
    /// An [`Offer`]. Published with `Release` after `holes`, read with `Acquire` before.
    offer: AtomicU64,
    holes: [AtomicU64; BlockSet::WORDS],
}

/// What a slot says: a state, a block, and which offer of this slot's it is.
///
/// Without the turn a helper could take a block for done that was taken back and offered anew, with
/// other holes, while it was splitting by the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer(u64);

/// Nothing is in the slot; the lowest bits of an offer.
const EMPTY: u64 = 0;
const OFFERED: u64 = 1;
const DONE: u64 = 2;
const STATE: u64 = 3;
/// Above it is the block's number: 57 bits of addresses are 36 bits of blocks.
const BLOCK_SHIFT: u32 = 2;
/// Above that the turn, which comes back after 67 million offers of one slot.
const TURN_SHIFT: u32 = BLOCK_SHIFT + 36;

impl Offer {
    /// The next one of the same slot.
    fn next(self, block: PageIdx) -> Self {
        let turn = (self.0 >> TURN_SHIFT).wrapping_add(1) << TURN_SHIFT;
        Self(turn | (block.0 / PAGES_PER_BLOCK as u64) << BLOCK_SHIFT | OFFERED)
    }

    fn is(self, state: u64) -> bool {
        self.0 & STATE == state
    }

    fn with(self, state: u64) -> Self {
        Self(self.0 & !STATE | state)
    }

    /// The block's first page.
    fn block(self) -> PageIdx {
        let number = (self.0 & ((1 << TURN_SHIFT) - 1)) >> BLOCK_SHIFT;
        PageIdx(number * PAGES_PER_BLOCK as u64)
    }
}

impl Slot {
    fn new() -> Self {
        let holes = std::array::from_fn(|_| AtomicU64::new(0));
        Self { offer: AtomicU64::new(EMPTY), holes }
    }

    fn offer(&self, order: Ordering) -> Offer {
        Offer(self.offer.load(order))
    }

    /// Whether it still held `before`, in whose place `after` is then.
    fn replace(&self, before: Offer, after: Offer, order: Ordering) -> bool {
        self.offer.compare_exchange(before.0, after.0, order, Ordering::Relaxed).is_ok()
    }

    fn holes(&self) -> BlockSet {
        BlockSet::from_words(std::array::from_fn(|i| {
            self.holes.get(i).map_or(0, |word| word.load(Ordering::Relaxed))
        }))
    }
}

/// Places for so many blocks that wait for a split.
#[derive(Debug)]
pub(super) struct Slots<const COUNT: usize>([Slot; COUNT]);

impl<const COUNT: usize> Slots<COUNT> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Slot::new()))
    }

    /// Offers a block with these holes; false if all slots are taken. Under the book's lock.
    pub(super) fn offer(&self, block: PageIdx, holes: &BlockSet) -> bool {
        let empty = |slot: &&Slot| slot.offer(Ordering::Relaxed).is(EMPTY);
        let Some(slot) = self.0.iter().find(empty) else { return false };
        for (place, word) in slot.holes.iter().zip(holes.words()) {
            place.store(word, Ordering::Relaxed);
        }
        let offer = slot.offer(Ordering::Relaxed).next(block);
        slot.offer.store(offer.0, Ordering::Release);
        true
    }

    /// Clears what is done, handing its holes to `done`. Under the book's lock.
    pub(super) fn collect(&self, mut done: impl FnMut(BlockSet)) {
        for slot in &self.0 {
            let offer = slot.offer(Ordering::Acquire);
            if offer.is(DONE) {
                done(slot.holes());
                slot.offer.store(offer.with(EMPTY).0, Ordering::Relaxed);
            }
        }
    }

    /// Takes back a block that nobody has split yet. Under the book's lock.
    pub(super) fn take_back(&self) -> Option<(PageIdx, BlockSet)> {
        self.0.iter().find_map(|slot| {
            let offer = slot.offer(Ordering::Relaxed);
            let holes = offer.is(OFFERED).then(|| slot.holes())?;
            let taken = slot.replace(offer, offer.with(EMPTY), Ordering::Relaxed);
            taken.then_some((offer.block(), holes))
        })
    }

    /// Hands what is offered to `split`, block by block, and tells whether there was anything. For the
    /// helper: allocates nothing, takes no lock, doesn't panic.
    ///
    /// A block that is taken back meanwhile is handed over all the same, with its holes, those of a later
    /// offer, or a mixture: splitting by these must do no harm. It doesn't count as done then.
    pub(super) fn serve(&self, mut split: impl FnMut(PageIdx, &BlockSet)) -> bool {
        let mut found = false;
        for slot in &self.0 {
            let offer = slot.offer(Ordering::Acquire);
            if offer.is(OFFERED) {
                found = true;
                split(offer.block(), &slot.holes());
                // Fails if it was taken back meanwhile.
                slot.replace(offer, offer.with(DONE), Ordering::Release);
            }
        }
        found
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use recoup_sys::{PageRange, Pages};

    fn holes(count: u64) -> BlockSet {
        let mut holes = BlockSet::default();
        holes.insert(PageRange::starting_at(PageIdx(0), Pages(count)));
        holes
    }

    #[test]
    fn an_offer_holds_the_last_block_and_its_turn_comes_round() {
        let last = PageIdx((1 << 45) - 512);
        let mut offer = Offer(u64::MAX << TURN_SHIFT).next(last);
        assert_eq!((offer.block(), offer.0 >> TURN_SHIFT), (last, 0));
        offer = offer.with(EMPTY).next(PageIdx(512));
        assert_eq!((offer.block(), offer.0 >> TURN_SHIFT), (PageIdx(512), 1));
        assert!(offer.is(OFFERED) && offer.with(DONE).is(DONE));
    }

    #[test]
    fn what_is_done_is_collected_once() {
        let slots = Slots::<4>::new();
        assert!(slots.offer(PageIdx(512), &holes(3)));
        assert!(slots.serve(|block, _| assert_eq!(block, PageIdx(512))));
        assert!(slots.offer(PageIdx(1024), &holes(5)));
        let mut collected = Vec::new();
        slots.collect(|holes| collected.push(holes.count()));
        slots.collect(|holes| collected.push(holes.count()));
        assert_eq!(collected, [3]);
    }

    #[test]
    fn what_is_offered_can_be_taken_back_once() {
        let slots = Slots::<4>::new();
        assert!(slots.offer(PageIdx(1024), &holes(5)));
        let (block, taken) = slots.take_back().expect("it is there");
        assert_eq!((block, taken.count()), (PageIdx(1024), 5));
        assert!(slots.take_back().is_none());
        assert!(!slots.serve(|_, _| panic!("nothing is left")));
    }

    #[test]
    fn a_full_queue_says_so() {
        let slots = Slots::<4>::new();
        assert!((1..=4).all(|block| slots.offer(PageIdx(block * 512), &holes(1))));
        assert!(!slots.offer(PageIdx(1 << 20), &holes(1)));
    }
}
