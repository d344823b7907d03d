//! Positions and amounts of memory, as different types with only the meaningful operators.
//!
//! An amount ([`Bytes`], [`Pages`]) can be added up; a position ([`PageIdx`], [`Pfn`]) can only be
//! moved by an amount, and two positions differ by one. The sizes of pages come from here and
//! nowhere else.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// Binary logarithm of the base page size: 4 KiB. [`crate::Features`] refuses any other kernel.
pub const PAGE_SHIFT: u32 = 12;
/// Binary logarithm of the number of entries in one page table.
pub const TABLE_SHIFT: u32 = 9;
/// Base pages that one page table maps (a *block*, 2 MiB), and order-9 huge pages hold.
pub const PAGES_PER_BLOCK: usize = 1 << TABLE_SHIFT;
/// Order (binary logarithm of the pages) of a PMD-mapped huge page.
pub const PMD_ORDER: u8 = 9;
/// The base page, which is also the size of one page table.
pub const PAGE: Bytes = Bytes(1 << PAGE_SHIFT);
/// The same as a number of bytes in this process's memory.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// What one PTE table maps and one PMD entry points to.
pub const BLOCK: Bytes = Bytes(PAGE.0 << TABLE_SHIFT);
/// What one PMD table maps: 1 GiB.
pub const PMD_TABLE_SPAN: Bytes = Bytes(BLOCK.0 << TABLE_SHIFT);
/// Order of what one PMD table maps.
pub const PUD_ORDER: u8 = 2 * PMD_ORDER;

const _: () = assert!(BLOCK.0 == 2 << 20 && PMD_TABLE_SPAN.0 == 1 << 30);
const _: () = assert!(Pages::of_order(PUD_ORDER).bytes().0 == PMD_TABLE_SPAN.0);

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// What is left after taking away `other`, at least nothing.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self::ZERO, Add::add)
            }
        }
    };
}

amount! {
    /// An amount of memory in bytes.
    Bytes
}
amount! {
    /// An amount of memory in base pages of 4 KiB.
    Pages
}

impl Bytes {
    /// An amount given in KiB, the unit of `/proc` files.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// Whole base pages in this amount, rounded down.
    #[must_use]
    pub const fn whole_pages(self) -> Pages {
        Pages(self.0 >> PAGE_SHIFT)
    }
}

impl Pages {
    /// The pages of a huge page of this order.
    #[must_use]
    pub const fn of_order(order: u8) -> Self {
        Self(1 << order)
    }

    /// The same amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0 << PAGE_SHIFT)
    }
}

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The start of the naturally aligned group of `1 << order` pages around this one.
            #[must_use]
            pub const fn align_down(self, order: u8) -> Self {
                Self(self.0 >> order << order)
            }
        }

        impl Add<Pages> for $name {
            type Output = Self;
            fn add(self, amount: Pages) -> Self {
                Self(self.0 + amount.0)
            }
        }

        impl Sub for $name {
            type Output = Pages;
            /// The distance to an earlier position.
            fn sub(self, earlier: Self) -> Pages {
                Pages(self.0 - earlier.0)
            }
        }
    };
}

position! {
    /// A page of an address space: a virtual address divided by the page size.
    PageIdx
}
position! {
    /// A page frame number: a physical address divided by the page size.
    Pfn
}

impl PageIdx {
    /// The page that holds this virtual address.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address >> PAGE_SHIFT)
    }

    /// The virtual address of the page's first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The first page of the 2 MiB block around this page.
    #[must_use]
    pub const fn block_start(self) -> Self {
        self.align_down(PMD_ORDER)
    }

    /// The position of this page in its 2 MiB block, below [`PAGES_PER_BLOCK`].
    #[must_use]
    pub const fn index_in_block(self) -> usize {
        // Masked to nine bits: the cast cannot lose any.
        #[expect(clippy::cast_possible_truncation)]
        {
            self.0 as usize & (PAGES_PER_BLOCK - 1)
        }
    }
}

impl fmt::Display for PageIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address())
    }
}

/// A half-open range of pages in an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// The first page.
    pub start: PageIdx,
    /// The first page after the range.
    pub end: PageIdx,
}

impl PageRange {
    /// The range of `length` pages from `start`.
    #[must_use]
    pub fn starting_at(start: PageIdx, length: Pages) -> Self {
        Self { start, end: start + length }
    }

    /// How many pages the range has; none if it ends before it starts.
    #[must_use]
    pub const fn length(self) -> Pages {
        Pages(self.end.0.saturating_sub(self.start.0))
    }

    /// Whether the range has no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.start.0
    }

    /// Whether `page` lies in the range.
    #[must_use]
    pub fn contains(self, page: PageIdx) -> bool {
        self.start <= page && page < self.end
    }

    /// What both ranges have in common, possibly nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    /// The smallest range of whole 2 MiB blocks that covers this one.
    #[must_use]
    pub fn blocks(self) -> Self {
        let past_end = self.end + Pages(PAGES_PER_BLOCK as u64 - 1);
        Self { start: self.start.block_start(), end: past_end.block_start() }
    }

    /// The 2 MiB blocks that lie wholly in this range; ends before it starts if there are none.
    #[must_use]
    pub fn whole_blocks(self) -> Self {
        let start = Self { start: self.start, end: self.start }.blocks().end;
        Self { start, end: self.end.block_start() }
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.address(), self.end.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_cover_the_range_and_nothing_more_than_its_blocks(
            start in 0_u64..1 << 36, length in 1_u64..1 << 20,
        ) {
            let range = PageRange::starting_at(PageIdx(start), Pages(length));
            let blocks = range.blocks();
            prop_assert!(blocks.start <= range.start && range.end <= blocks.end);
            prop_assert_eq!(blocks.start.index_in_block(), 0);
            prop_assert_eq!(blocks.end.index_in_block(), 0);
            prop_assert!(range.start - blocks.start < Pages(PAGES_PER_BLOCK as u64));
            prop_assert!(blocks.end - range.end < Pages(PAGES_PER_BLOCK as u64));
        }

        #[test]
        fn a_page_is_its_block_plus_its_index(page in 0_u64..1 << 45) {
            let page = PageIdx(page);
            prop_assert_eq!(page.block_start() + Pages(page.index_in_block() as u64), page);
        }
    }

    #[test]
    fn disjoint_ranges_have_an_empty_intersection() {
        let low = PageRange { start: PageIdx(0), end: PageIdx(5) };
        let high = PageRange { start: PageIdx(7), end: PageIdx(9) };
        assert!(low.intersection(high).is_empty());
        assert_eq!(low.intersection(high).length(), Pages::ZERO);
    }
}
