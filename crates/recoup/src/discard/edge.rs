//! Where the ends of a range cut a 2 MiB block: the only places where a discard leaves a part of a
//! huge page behind.

use recoup_sys::blockset::BlockSet;
use recoup_sys::thp::Thp;
use recoup_sys::units::{BLOCK, PMD_ORDER};
use recoup_sys::{Errno, PageIdx, PageRange, Pages, own};

/// The part of a range that lies in a block which is not all in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    released: PageRange,
}

/// The blocks that a range covers only in part: at most two.
pub(super) fn edges(range: PageRange) -> [Option<Edge>; 2] {
    let within = |block: PageIdx| {
        let block = PageRange::starting_at(block, BLOCK.whole_pages());
        let released = range.intersection(block);
        (!released.is_empty() && released != block).then_some(Edge { released })
    };
    let (first, last) = (range.start.block_start(), range.end.block_start());
    [within(first), if first == last { None } else { within(last) }]
}

/// The orders of huge pages that can come to be here; the PMD's where that is unknown.
pub(super) fn enabled_orders() -> Vec<u8> {
    let sizes = Thp::of_host().sizes();
    let enabled: Vec<u8> =
        sizes.iter().filter(|size| size.enabled).map(|size| size.order).collect();
    if enabled.is_empty() { vec![PMD_ORDER] } else { enabled }
}

/// A page of the block that is in memory, among those whose position `suits`.
pub(super) fn mapped_page(block: PageIdx, suits: impl Fn(usize) -> bool) -> Option<PageIdx> {
    let resident = own::resident(block);
    let index = resident.iter().enumerate().position(|(index, &here)| here && suits(index))?;
    Some(block + Pages(index as u64))
}

/// Ages one page of a block that is in memory and whose position `suits`, so that its huge page is split.
/// The kernel passes one over in silence that something else holds for a moment, and another thread may
/// discard just this page: so it takes two tries, of which the second costs nothing much if the first did
/// it.
pub(super) fn age_one(
    block: PageIdx,
    suits: impl Fn(usize) -> bool,
) -> std::result::Result<(), Errno> {
    (0..2).try_for_each(|_| mapped_page(block, &suits).map_or(Ok(()), age_page))
}

fn age_page(page: PageIdx) -> std::result::Result<(), Errno> {
    own::age_bare(PageRange::starting_at(page, Pages(1)))
}

impl Edge {
    /// Splits the huge page of which something is about to be given back, and was before: `holes` has
    /// both. Its last pages may be those that are about to go.
    pub(super) fn age_uncut(self, holes: &BlockSet) -> std::result::Result<(), Errno> {
        let kept = age_one(self.block(), |index| !holes.has(index));
        kept.and(own::age_bare(self.released))
    }

    /// The block that is cut.
    pub(super) fn block(self) -> PageIdx {
        self.released.start.block_start()
    }

    /// What of it is given back.
    pub(super) fn released(self) -> PageRange {
        self.released
    }

    /// Pages in memory that can be of the same huge pages, of these `orders`, as what is given back:
    /// of each side of each huge page that can be cut the nearest and the farthest. One page by itself
    /// may be a base page that was written since.
    pub(super) fn neighbours(self, orders: &[u8]) -> Vec<PageIdx> {
        let cuts = [self.released.start, self.released.end];
        let groups = cuts.into_iter().filter_map(|cut| group_around(cut, orders));
        let resident = own::resident(self.block());
        let mut pages: Vec<PageIdx> =
            groups.flat_map(|group| self.around(group, &resident)).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The pages of a group that are in memory, nearest to and farthest from what is given back, on
    /// both sides.
    fn around(self, group: PageRange, resident: &[bool]) -> Vec<PageIdx> {
        let here = |page: &u64| resident.get(PageIdx(*page).index_in_block()) == Some(&true);
        let below = group.start.0..self.released.start.0;
        let above = self.released.end.0..group.end.0;
        let of = |mut side: std::ops::Range<u64>| {
            let nearest_or_farthest = [side.clone().find(here), side.rfind(here)];
            nearest_or_farthest.into_iter().flatten()
        };
        of(below).chain(of(above)).map(PageIdx).collect()
    }
}

/// The largest huge page that would have a `cut` in its midst.
fn group_around(cut: PageIdx, orders: &[u8]) -> Option<PageRange> {
    let order = orders.iter().copied().filter(|&order| cut.align_down(order) != cut).max()?;
    Some(PageRange::starting_at(cut.align_down(order), Pages::of_order(order)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange { start: PageIdx(start), end: PageIdx(end) }
    }

    fn cut(start: u64, end: u64) -> Vec<(u64, u64)> {
        let edges = edges(range(start, end)).into_iter().flatten();
        edges.map(|edge| (edge.released.start.0, edge.released.end.0)).collect()
    }

    #[test]
    fn a_range_cuts_at_most_the_blocks_at_its_ends() {
        assert_eq!(cut(512, 2048), []);
        assert_eq!(cut(512, 513), [(512, 513)]);
        assert_eq!(cut(600, 700), [(600, 700)]);
        assert_eq!(cut(600, 2048), [(600, 1024)]);
        assert_eq!(cut(512, 2050), [(2048, 2050)]);
        assert_eq!(cut(600, 2050), [(600, 1024), (2048, 2050)]);
        assert_eq!(cut(1023, 1025), [(1023, 1024), (1024, 1025)]);
        assert_eq!(cut(600, 600), []);
    }

    #[test]
    fn blocks_between_the_ends_are_whole() {
        assert_eq!(range(600, 2050).whole_blocks(), range(1024, 2048));
        assert_eq!(range(512, 1024).whole_blocks(), range(512, 1024));
        assert!(range(600, 700).whole_blocks().is_empty());
    }

    #[test]
    fn only_huge_pages_that_exist_can_be_cut() {
        assert_eq!(group_around(PageIdx(520), &[4]), Some(range(512, 528)));
        assert_eq!(group_around(PageIdx(528), &[4]), None);
        assert_eq!(group_around(PageIdx(528), &[4, 9]), Some(range(512, 1024)));
    }

    #[test]
    fn the_nearest_and_the_farthest_page_in_memory_are_taken_on_both_sides() {
        let edge = Edge { released: range(600, 700) };
        let group = range(512, 1024);
        let with = |pages: &[u64]| {
            let mut resident = vec![false; 512];
            pages.iter().for_each(|&page| resident[PageIdx(page).index_in_block()] = true);
            let mut around = edge.around(group, &resident);
            around.dedup();
            around.iter().map(|page| page.0).collect::<Vec<_>>()
        };
        assert_eq!(with(&[513, 520, 590, 701, 702, 900]), [513, 590, 701, 900]);
        assert_eq!(with(&[701]), [701]);
        assert_eq!(with(&[650]), [0_u64; 0], "written again meanwhile: it is no neighbour");
    }
}
