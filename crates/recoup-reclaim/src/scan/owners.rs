//! Counts how much anonymous memory has a single owner: what could live in a pool made for it.

use recoup_sys::Pages;
use recoup_sys::pagemap::Word;

use super::block::Block;

/// Anonymous pages by the number of processes that map them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Anonymous pages in memory.
    pub anonymous: Pages,
    /// Those of them that this process alone maps.
    pub exclusive: Pages,
}

impl Owners {
    /// Counts the pages of a block.
    pub fn visit(&mut self, block: &Block) {
        let count = |bit| {
            block
                .words()
                .filter(|w| w.is_present_anonymous() && w.has(bit))
                .count()
        };
        self.anonymous += Pages(count(Word::PRESENT) as u64);
        self.exclusive += Pages(count(Word::EXCLUSIVE) as u64);
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.anonymous += other.anonymous;
        self.exclusive += other.exclusive;
    }
}
