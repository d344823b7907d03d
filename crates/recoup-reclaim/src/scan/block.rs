//! A 2 MiB block of an address space: what one page table maps.

use recoup_sys::pagemap::Word;
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{PageIdx, PageRange, Pages};

/// The `pagemap` words of one block.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    start: PageIdx,
    words: &'a [u64; PAGES_PER_BLOCK],
}

impl<'a> Block<'a> {
    /// The block at `start`, which is a multiple of 512 pages.
    #[must_use]
    pub fn new(start: PageIdx, words: &'a [u64; PAGES_PER_BLOCK]) -> Self {
        debug_assert_eq!(start.index_in_block(), 0);
        Self { start, words }
    }

    /// Its first page.
    #[must_use]
    pub fn start(&self) -> PageIdx {
        self.start
    }

    /// Its pages.
    #[must_use]
    pub fn range(&self) -> PageRange {
        PageRange::starting_at(self.start, Pages(PAGES_PER_BLOCK as u64))
    }

    /// The page at `index`, below 512.
    #[must_use]
    pub fn page(&self, index: usize) -> PageIdx {
        self.start + Pages(index as u64)
    }

    /// The word at `index`, below 512.
    #[must_use]
    pub fn word(&self, index: usize) -> Word {
        Word(self.words[index])
    }

    /// All words, by address.
    pub fn words(&self) -> impl Iterator<Item = Word> + use<'a> {
        self.words.iter().map(|&word| Word(word))
    }

    /// Whether no page holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !Word(self.words.iter().fold(0, |all, &word| all | word)).holds_something()
    }

    /// How many pages hold something.
    #[must_use]
    pub fn used(&self) -> Pages {
        Pages(self.words().map(|word| u64::from(word.holds_something())).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_of_a_new_mapping_is_soft_dirty_and_holds_nothing() {
        let mut words = [1 << 55; PAGES_PER_BLOCK];
        assert!(Block::new(PageIdx(0), &words).is_empty());
        words[3] |= Word::PRESENT | 77;
        let block = Block::new(PageIdx(0), &words);
        assert!(!block.is_empty());
        assert_eq!(block.used(), Pages(1));
    }
}
