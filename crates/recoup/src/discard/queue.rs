//! Splits that another task does: the companion, which shares nothing with this program's threads but
//! memory, and so neither takes a lock nor allocates.
//!
//! Two writers to a slot: whoever holds the discarder's book offers a block, takes it back, or clears
//! what is done; the helper only ever turns `offered` into `done`. It may be killed at any
//! instruction: what it had is still offered then, and a block is split twice at worst.

use std::sync::atomic::{AtomicU64, Ordering};

use recoup_sys::PageIdx;
use recoup_sys::blockset::BlockSet;

/// Blocks that can be offered at a time.
const SLOTS: usize = 64;
const EMPTY: u64 = 0;
/// In the low bits of a block's first page, which are zero.
const OFFERED: u64 = 1;
const DONE: u64 = 2;
const STATE: u64 = OFFERED | DONE;

#[derive(Debug, Default)]
struct Slot {
    /// The block and its state. Published with `Release` after `holes`, read with `Acquire` before.
    block: AtomicU64,
    holes: [AtomicU64; BlockSet::WORDS],
}

/// Blocks that wait for a helper to split them.
#[derive(Debug)]
pub struct SplitQueue {
    slots: [Slot; SLOTS],
}

impl Default for SplitQueue {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()) }
    }
}

impl Slot {
    fn holes(&self) -> BlockSet {
        BlockSet::from_words(std::array::from_fn(|i| {
            self.holes.get(i).map_or(0, |word| word.load(Ordering::Relaxed))
        }))
    }
}

impl SplitQueue {
    /// Offers a block with these holes; false if all slots are taken. Under the book's lock.
    pub(super) fn offer(&self, block: PageIdx, holes: &BlockSet) -> bool {
        let empty = |slot: &&Slot| slot.block.load(Ordering::Relaxed) == EMPTY;
        let Some(slot) = self.slots.iter().find(empty) else { return false };
        for (place, word) in slot.holes.iter().zip(holes.words()) {
            place.store(word, Ordering::Relaxed);
        }
        slot.block.store(block.0 | OFFERED, Ordering::Release);
        true
    }

    /// Clears what is done, handing its holes to `done`. Under the book's lock.
    pub(super) fn collect(&self, mut done: impl FnMut(BlockSet)) {
        for slot in &self.slots {
            if slot.block.load(Ordering::Acquire) & STATE == DONE {
                done(slot.holes());
                slot.block.store(EMPTY, Ordering::Relaxed);
            }
        }
    }

    /// Takes back a block that nobody has split yet. Under the book's lock.
    pub(super) fn take_back(&self) -> Option<(PageIdx, BlockSet)> {
        self.slots.iter().find_map(|slot| {
            let block = slot.block.load(Ordering::Acquire);
            if block & STATE != OFFERED {
                return None;
            }
            let holes = slot.holes();
            let taken =
                slot.block.compare_exchange(block, EMPTY, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok().then_some((PageIdx(block & !STATE), holes))
        })
    }

    /// Splits what is offered, and tells whether there was anything. For the helper: allocates
    /// nothing, takes no lock, doesn't panic.
    pub fn split_offered(&self) -> bool {
        let mut found = false;
        for slot in &self.slots {
            let block = slot.block.load(Ordering::Acquire);
            if block & STATE == OFFERED {
                found = true;
                let (holes, first) = (slot.holes(), PageIdx(block & !STATE));
                // What is refused is refused to everybody; it counts as tried.
                let _ = super::age_one(first, &holes).and_then(|()| super::age_one(first, &holes));
                // Fails if it was taken back meanwhile.
                let done = first.0 | DONE;
                let _ =
                    slot.block.compare_exchange(block, done, Ordering::Release, Ordering::Relaxed);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use recoup_sys::{PageRange, Pages};

    fn holes(count: u64) -> BlockSet {
        let mut holes = BlockSet::default();
        holes.insert(PageRange::starting_at(PageIdx(0), Pages(count)));
        holes
    }

    fn finish(queue: &SplitQueue, block: PageIdx) {
        let slot =
            queue.slots.iter().find(|s| s.block.load(Ordering::Relaxed) == block.0 | OFFERED);
        slot.expect("offered").block.store(block.0 | DONE, Ordering::Release);
    }

    #[test]
    fn what_is_done_is_collected_once_and_the_rest_can_be_taken_back() {
        let queue = SplitQueue::default();
        assert!(queue.offer(PageIdx(512), &holes(3)) && queue.offer(PageIdx(1024), &holes(5)));
        finish(&queue, PageIdx(512));
        let mut collected = Vec::new();
        queue.collect(|holes| collected.push(holes.count()));
        queue.collect(|holes| collected.push(holes.count()));
        assert_eq!(collected, [3]);
        let (block, taken) = queue.take_back().expect("one is left");
        assert_eq!((block, taken.count()), (PageIdx(1024), 5));
        assert!(queue.take_back().is_none());
    }

    #[test]
    fn a_full_queue_says_so() {
        let queue = SplitQueue::default();
        assert!((1..=SLOTS as u64).all(|block| queue.offer(PageIdx(block * 512), &holes(1))));
        assert!(!queue.offer(PageIdx(1 << 20), &holes(1)));
    }
}
