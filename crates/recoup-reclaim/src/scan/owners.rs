//! Counts how much anonymous memory has a single owner: what could live in a pool made for it.

use recoup_sys::pagemap::Word;
use recoup_sys::{Pages, Pfn};

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
    /// Counts the pages of a block. The shared zero page is nobody's.
    pub fn visit(&mut self, block: &Block, zero_page: Option<Pfn>) {
        let counted = block.words().filter(|word| {
            word.is_present_anonymous() && (zero_page.is_none() || word.frame() != zero_page)
        });
        for word in counted {
            self.anonymous += Pages(1);
            self.exclusive += Pages(u64::from(word.has(Word::EXCLUSIVE)));
        }
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.anonymous += other.anonymous;
        self.exclusive += other.exclusive;
    }
}
