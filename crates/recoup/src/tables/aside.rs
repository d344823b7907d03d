//! What a sweep uses itself: behind its own fence, it would wait for itself for ever.

use recoup_sys::{PageIdx, PageRange, Pages};

/// Ranges of whole blocks that no fence covers; what is not used of them is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside([PageRange; MOST]);

/// Stack, value and room of who sweeps; stack and room of a mate, and where the two meet.
const MOST: usize = 6;

/// How far from here the stack of a sweep can reach, with a lot to spare. What lies above it belongs
/// to those who wait for the sweep to return.
const STACK: u64 = 1 << 20;

impl Aside {
    /// At most six ranges.
    pub(super) fn new(ranges: impl IntoIterator<Item = PageRange>) -> Self {
        let mut all = [PageRange::default(); MOST];
        let mut ranges = ranges.into_iter();
        all.iter_mut().zip(&mut ranges).for_each(|(place, range)| *place = range.blocks());
        debug_assert!(ranges.next().is_none(), "more ranges than there is room for");
        Self(all)
    }

    /// The surroundings of the stack pointer. Threads' stacks are ordinary memory to the kernel.
    #[inline(never)]
    pub(super) fn stack() -> PageRange {
        let here = 0_u8;
        let here = (&raw const here).addr() as u64;
        let pages = |address: u64| PageIdx::containing(address);
        PageRange { start: pages(here.saturating_sub(STACK)), end: pages(here + STACK) }
    }

    /// The pages that a value lies in.
    pub(super) fn value<T>(value: &T) -> PageRange {
        let start = std::ptr::from_ref(value).addr() as u64;
        let last = PageIdx::containing(start + size_of::<T>() as u64);
        PageRange { start: PageIdx::containing(start), end: last + Pages(1) }
    }

    /// The first part of `area` that can be fenced, if any is left.
    pub(super) fn first_piece(&self, area: PageRange) -> Option<PageRange> {
        let mut start = area.start;
        while let Some(range) = self.0.iter().find(|range| range.contains(start)) {
            start = range.end;
        }
        let next = self.0.iter().map(|range| range.start).filter(|&next| next > start).min();
        let end = next.map_or(area.end, |next| next.min(area.end));
        let piece = PageRange { start, end };
        (!piece.is_empty()).then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(start: u64, end: u64) -> PageRange {
        PageRange { start: PageIdx(start * 512), end: PageIdx(end * 512) }
    }

    fn pieces(aside: Aside, mut area: PageRange) -> Vec<PageRange> {
        let next = || {
            let piece = aside.first_piece(area)?;
            area.start = piece.end;
            Some(piece)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn areas_are_cut_around_it() {
        let aside = Aside::new([blocks(4, 6), blocks(5, 8), blocks(20, 21)]);
        assert_eq!(pieces(aside, blocks(0, 30)), [blocks(0, 4), blocks(8, 20), blocks(21, 30)]);
        assert_eq!(pieces(aside, blocks(4, 8)), []);
        assert_eq!(pieces(aside, blocks(7, 9)), [blocks(8, 9)]);
        assert_eq!(pieces(aside, blocks(9, 9)), []);
    }

    #[test]
    fn the_stack_and_values_lie_within() {
        let value = [0_u8; 5000];
        let page = PageIdx::containing(value.as_ptr().addr() as u64);
        assert!(Aside::stack().contains(page) && Aside::value(&value).contains(page + Pages(1)));
    }
}
