//! Cuts memory into slices that several threads can give back at once.

use crate::units::{PageIdx, PageRange, Pages};

/// The smallest slice that is worth a thread's while: 32 MiB. With slices of 2 MiB two threads are
/// no faster than one.
pub const SMALLEST: Pages = Pages(32 << 8);

/// Cuts `range` at multiples of `unit` (a power of two), so that page tables, huge pages and, from
/// 1 GiB on, tables of the next level have one slice each. What is left at the ends and smaller
/// than `unit` goes with its neighbour. Allocates nothing.
#[must_use]
pub fn slices(range: PageRange, unit: Pages) -> Slices {
    Slices { rest: range, unit: unit.0.max(1) }
}

/// See [`slices`].
#[derive(Clone, Debug)]
pub struct Slices {
    rest: PageRange,
    unit: u64,
}

impl Iterator for Slices {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        if self.rest.is_empty() {
            return None;
        }
        let PageRange { start, end } = self.rest;
        // The first multiple that leaves a whole unit before it.
        let multiple = start.0.saturating_add(self.unit).checked_next_multiple_of(self.unit);
        let cut = multiple.unwrap_or(end.0);
        let tail_is_small = end.0.saturating_sub(cut) < self.unit;
        let cut = if tail_is_small { end } else { PageIdx(cut) };
        self.rest.start = cut;
        Some(PageRange { start, end: cut })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_cover_the_range_and_are_never_small(
            start in 0_u64..1 << 34, length in 0_u64..1 << 22, shift in 9_u32..19,
        ) {
            let range = PageRange::starting_at(PageIdx(start), Pages(length));
            let unit = Pages(1 << shift);
            let mut next = range.start;
            for slice in slices(range, unit) {
                prop_assert_eq!(slice.start, next);
                prop_assert!(slice.length() >= unit || slice == range);
                prop_assert!(slice.length().0 < 3 * unit.0);
                prop_assert!(slice.end == range.end || slice.end.0 % unit.0 == 0);
                next = slice.end;
            }
            prop_assert_eq!(next, range.end);
        }
    }

    #[test]
    fn a_small_range_is_one_slice() {
        let range = PageRange::starting_at(PageIdx(5), Pages(3));
        assert_eq!(slices(range, SMALLEST).collect::<Vec<_>>(), [range]);
    }
}
