//! Counts what page tables are needed for. The kernel says how many there are (`VmPTE`): what is
//! not needed is empty.
//!
//! A 2 MiB block that holds something needs a PTE table (a PMD-mapped huge page keeps one in
//! deposit), a gigabyte that does a PMD table, 512 GiB a PUD table. Tables whose entries the kernel
//! does not show (devices, hugetlb) are assumed to be needed, so the count of empty ones errs on
//! the low side.

use std::collections::BTreeSet;

use recoup_sys::pagemap::Word;
use recoup_sys::units::{PMD_TABLE_SPAN, TABLE_SHIFT};
use recoup_sys::{Bytes, Pages, Pfn};

use super::block::Block;

/// How many tables are needed, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    zero_page: Option<Pfn>,
    /// PTE tables of blocks that hold something.
    pub needed: Pages,
    /// Those of them that hold nothing but the shared zero page.
    pub zero_only: Pages,
    /// Those of them that hold nothing but pages of files and shared memory: a fault could
    /// rebuild each.
    pub reconstructable: Pages,
    pmd_tables: Pages,
    last_gib: Option<u64>,
    pud_tables: BTreeSet<u64>,
}

impl Census {
    /// A census that knows the frame of the zero page, if frames are shown at all.
    #[must_use]
    pub fn new(zero_page: Option<Pfn>) -> Self {
        Self { zero_page, ..Self::default() }
    }

    /// The frame of the zero page.
    #[must_use]
    pub fn zero_page(&self) -> Option<Pfn> {
        self.zero_page
    }

    /// Counts the table of a block that holds something. Blocks come in ascending order.
    pub fn visit(&mut self, block: &Block) {
        self.needed += Pages(1);
        let gib = block.start().0 / PMD_TABLE_SPAN.whole_pages().0;
        if self.last_gib.replace(gib) != Some(gib) {
            self.pmd_tables += Pages(1);
            self.pud_tables.insert(gib >> TABLE_SHIFT);
        }
        let mut used = block.words().filter(|word| word.holds_something());
        match used.next() {
            Some(first) if self.is_zero_page(first) => {
                self.zero_only += Pages(u64::from(used.all(|word| self.is_zero_page(word))));
            }
            Some(first) if is_file(first) => {
                self.reconstructable += Pages(u64::from(used.all(is_file)));
            }
            _ => {}
        }
    }

    fn is_zero_page(&self, word: Word) -> bool {
        self.zero_page.is_some() && word.frame() == self.zero_page
    }

    /// Adds the census of another window of the same address space.
    pub fn add(&mut self, other: &Self) {
        self.needed += other.needed;
        self.zero_only += other.zero_only;
        self.reconstructable += other.reconstructable;
        self.pmd_tables += other.pmd_tables;
        self.pud_tables.extend(&other.pud_tables);
    }

    /// Bytes of tables that map nothing, of `page_tables` bytes in all, when `assumed` tables must
    /// be taken as needed without having been seen.
    #[must_use]
    pub fn empty(&self, page_tables: Bytes, assumed: u64) -> Bytes {
        let upper = self.pmd_tables + Pages(self.pud_tables.len() as u64);
        let needed = self.needed + upper + Pages(assumed);
        page_tables.saturating_sub(needed.bytes())
    }
}

fn is_file(word: Word) -> bool {
    word.has(Word::FILE) && !word.has(Word::SWAPPED)
}
