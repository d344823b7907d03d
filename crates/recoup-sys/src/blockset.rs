//! A set of the pages of one 2 MiB block.

use crate::units::{PAGES_PER_BLOCK, PageRange};

const WORDS: usize = PAGES_PER_BLOCK / 64;

/// Pages of one 2 MiB block, by their position in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSet([u64; WORDS]);

impl BlockSet {
    /// Words that a set consists of, 64 pages each.
    pub const WORDS: usize = WORDS;

    /// The set of these words.
    #[must_use]
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// Its words.
    #[must_use]
    pub fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// How many pages are in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Whether all pages of the block are in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|&word| word == u64::MAX)
    }

    /// Whether the page at this position is.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds pages, all of one block.
    pub fn insert(&mut self, pages: PageRange) {
        self.each_word(pages, |word, mask| *word |= mask);
    }

    /// Takes pages out, all of one block.
    pub fn remove(&mut self, pages: PageRange) {
        self.each_word(pages, |word, mask| *word &= !mask);
    }

    /// Visits each word that has some of the pages, with their bits.
    fn each_word(&mut self, pages: PageRange, mut visit: impl FnMut(&mut u64, u64)) {
        let first = pages.start.index_in_block() as u64;
        let end = first + pages.length().0;
        for (base, word) in (0_u64..).step_by(64).zip(&mut self.0) {
            let (from, to) = (first.max(base), end.min(base + 64));
            if from < to {
                visit(word, (u64::MAX >> (64 - (to - from))) << (from - base));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{PageIdx, Pages};

    #[test]
    fn every_range_of_a_block_is_the_set_of_its_pages() {
        // The interpreter that looks for undefined behaviour takes a sample.
        let step = if cfg!(miri) { 67 } else { 1 };
        for first in (0..PAGES_PER_BLOCK as u64).step_by(step) {
            for length in [0, 1, 2, 63, 64, 65, 129, 512 - first] {
                let length = length.min(512 - first);
                let range = PageRange::starting_at(PageIdx(512 * 9 + first), Pages(length));
                let mut set = BlockSet::default();
                set.insert(range);
                assert_eq!(u64::from(set.count()), length);
                let inside = |index: u64| (first..first + length).contains(&index);
                assert!((0..512_usize).all(|index| set.has(index) == inside(index as u64)));
                set.remove(range);
                assert!(set.is_empty() && !set.is_full());
            }
        }
    }
}
