//! What of an address space is looked at, and in what portions.
//!
//! A *window* is the part of one address space that one worker scans, and acts on, by itself. Cuts
//! between windows lie at multiples of 1 GiB, where no PTE or PMD table and no huge page crosses.

use std::collections::BTreeSet;

use recoup_sys::maps::{Backing, Mapping};
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, PageIdx, PageRange, Pages};

/// Address space that a window spans at most: 8 GiB, of which dense memory takes about a second or
/// two, so that work is shared out evenly and progress is seen.
pub const WINDOW: Bytes = Bytes(8 * PMD_TABLE_SPAN.0);

/// The mappings of one address space, and what of it can be looked at.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// All mappings, by address.
    pub mappings: Vec<Mapping>,
    /// Whole blocks of 2 MiB that hold something to look at, by address, none adjacent.
    pub searched: Vec<PageRange>,
    /// Tables that must be assumed to be needed, since their entries are not shown: those of
    /// devices' memory and of hugetlb pages.
    pub assumed_tables: u64,
}

impl Layout {
    /// Sorts out the mappings of a process. `hugetlb` are the device numbers of hugetlb files.
    #[must_use]
    pub fn new(mappings: Vec<Mapping>, hugetlb: &BTreeSet<(u32, u32)>) -> Self {
        let mut layout = Self::default();
        for mapping in &mappings {
            let span = mapping.range.length().bytes().0;
            if hugetlb.contains(&mapping.device) {
                layout.assumed_tables += span.div_ceil(PMD_TABLE_SPAN.0);
            } else if mapping.backing() == Backing::Device {
                layout.assumed_tables += span.div_ceil(BLOCK.0);
            } else {
                layout.search(mapping.range.blocks());
            }
        }
        layout.mappings = mappings;
        layout
    }

    fn search(&mut self, blocks: PageRange) {
        match self.searched.last_mut() {
            Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
            _ => self.searched.push(blocks),
        }
    }

    /// The position of the mapping that holds `page`.
    #[must_use]
    pub fn mapping_at(&self, page: PageIdx) -> Option<usize> {
        let after = self.mappings.partition_point(|mapping| mapping.range.start <= page);
        let candidate = after.checked_sub(1)?;
        self.mappings[candidate].range.contains(page).then_some(candidate)
    }

    /// The searched ranges, cut into windows that span at most [`WINDOW`].
    #[must_use]
    pub fn windows(&self) -> Vec<Vec<PageRange>> {
        let mut windows: Vec<Vec<PageRange>> = Vec::new();
        let mut window_end = PageIdx(0);
        for &range in &self.searched {
            let mut rest = range;
            while !rest.is_empty() {
                if windows.is_empty() || rest.start >= window_end {
                    windows.push(Vec::new());
                    window_end = gib_floor(rest.start) + WINDOW.whole_pages();
                }
                let piece = PageRange { end: rest.end.min(window_end), ..rest };
                windows.last_mut().into_iter().for_each(|window| window.push(piece));
                rest.start = piece.end;
            }
        }
        windows
    }
}

fn gib_floor(page: PageIdx) -> PageIdx {
    let Pages(gib) = PMD_TABLE_SPAN.whole_pages();
    PageIdx(page.0 / gib * gib)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(start: u64, pages: u64, device: (u32, u32), name: &str) -> Mapping {
        let range = PageRange::starting_at(PageIdx(start), Pages(pages));
        let inode = u64::from(!name.is_empty());
        Mapping { range, private: true, offset: Bytes::ZERO, device, inode, name: name.to_owned() }
    }

    #[test]
    fn neighbours_are_searched_as_one_and_opaque_memory_not_at_all() {
        let layout = Layout::new(
            vec![
                mapping(0, 10, (0, 0), ""),
                mapping(100, 600, (0, 0), ""),
                mapping(1 << 20, 1 << 18, (0, 15), "/anon_hugepage (deleted)"),
                mapping(1 << 22, 513, (0, 5), "/dev/dri/card0"),
            ],
            &BTreeSet::from([(0, 15)]),
        );
        assert_eq!(layout.searched, [PageRange { start: PageIdx(0), end: PageIdx(1024) }]);
        assert_eq!(layout.assumed_tables, 1 + 2);
    }

    #[test]
    fn a_page_is_found_in_its_mapping_and_a_gap_in_none() {
        let two = vec![mapping(0, 10, (0, 0), ""), mapping(100, 5, (0, 0), "")];
        let layout = Layout::new(two, &BTreeSet::new());
        assert_eq!(layout.mapping_at(PageIdx(104)), Some(1));
        assert_eq!(layout.mapping_at(PageIdx(9)), Some(0));
        assert_eq!(layout.mapping_at(PageIdx(10)), None);
    }

    proptest! {
        #[test]
        fn windows_hold_what_is_searched_once_in_order_and_end_at_gigabytes(
            sizes in prop::collection::vec((1_u64..1 << 26, 1_u64..1 << 26), 1..12),
        ) {
            let mut at = 0;
            let mappings = sizes.iter().map(|&(gap, pages)| {
                at += gap + pages;
                mapping(at - pages, pages, (0, 0), "")
            });
            let layout = Layout::new(mappings.collect(), &BTreeSet::new());
            let windows = layout.windows();
            let pieces: Vec<PageRange> = windows.iter().flatten().copied().collect();
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let total = |ranges: &[PageRange]| ranges.iter().map(|r| r.length()).sum::<Pages>();
            prop_assert_eq!(total(&pieces), total(&layout.searched));
            for pair in windows.windows(2) {
                let (last, next) = (pair[0][pair[0].len() - 1], pair[1][0]);
                prop_assert!(gib_floor(PageIdx(last.end.0 - 1)) < gib_floor(next.start)
                    || last.end == gib_floor(last.end));
            }
            for window in &windows {
                let span = window[window.len() - 1].end - window[0].start;
                prop_assert!(span <= WINDOW.whole_pages());
            }
        }
    }
}
