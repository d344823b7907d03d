//! Finds huge pages that are mapped only in part.
//!
//! A huge page that was mapped as a whole has its pages at addresses congruent with their frames:
//! page number and frame number agree in as many low bits as its order. Where such a page is part
//! of a compound page of which not all is mapped here, the rest is a *hole*: charged to the cgroup,
//! shown in no RSS, and freed only under memory pressure. Huge pages that mremap(2) moved to an
//! incongruent address are not recognised.

use std::ops::Range;

use recoup_sys::kpage::Frames;
use recoup_sys::pagemap::Word;
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{PageIdx, PageRange, Pages, Pfn, Result};

use super::block::Block;
use super::folio::Folio;

/// A huge page of which only a part is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// A page of it that is mapped.
    pub mapped_page: PageIdx,
    /// The frame of that page.
    pub frame: Pfn,
    /// Its order.
    pub order: u8,
    /// Its pages that are not mapped here.
    pub unmapped: Pages,
    /// Whether another process maps some of it, so that the kernel will not split it.
    pub sharing: Sharing,
}

/// Whether one process alone maps a huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All that is mapped of it, this process maps.
    Exclusive,
    /// Another process maps it too (after a fork).
    Shared,
}

impl Hole {
    /// The addresses at which all of the huge page was once mapped.
    #[must_use]
    pub fn range(&self) -> PageRange {
        PageRange::starting_at(self.mapped_page.align_down(self.order), Pages::of_order(self.order))
    }
}

/// What the kernel's count of a frame's mappings means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapCounts {
    /// How often this frame is mapped.
    EachPage,
    /// An average over the huge page, which says nothing of a hole (`CONFIG_NO_PAGE_MAPCOUNT`).
    Average,
}

/// Finds holes block by block.
#[derive(Debug)]
pub struct HoleFinder {
    map_counts: MapCounts,
    smallest: u8,
    largest: u8,
}

impl HoleFinder {
    /// A finder of huge pages of these orders.
    #[must_use]
    pub fn new(orders: &[u8], map_counts: MapCounts) -> Self {
        let smallest = orders.iter().copied().min().unwrap_or(u8::MAX);
        Self { map_counts, smallest, largest: orders.iter().copied().max().unwrap_or(0) }
    }

    /// Adds the holes of a block. Costs about a nanosecond a page, and a few flags' reads for each
    /// group of pages that might belong to a holed huge page.
    ///
    /// # Errors
    /// Those of reading frames.
    pub fn visit(&self, block: &Block, frames: &impl Frames, holes: &mut Vec<Hole>) -> Result<()> {
        if self.smallest > self.largest {
            return Ok(());
        }
        let mut judged: Vec<Range<Pfn>> = Vec::new();
        let mut index = 0;
        while index < PAGES_PER_BLOCK {
            if let Some(frame) = self.candidate(block, index) {
                if self.starts_whole_group(block, index, frame) {
                    index += 1 << self.largest;
                    continue;
                }
                if !judged.iter().rev().any(|frames| frames.contains(&frame)) {
                    judged.push(self.judge(block, index, frame, frames, holes)?);
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// The frame at `index` if it might be part of a huge page that lies congruently.
    fn candidate(&self, block: &Block, index: usize) -> Option<Pfn> {
        let word = block.word(index);
        let frame = word.frame().filter(|_| word.is_present_anonymous())?;
        let differing = frame.0 ^ block.page(index).0;
        (differing.trailing_zeros() >= u32::from(self.smallest)).then_some(frame)
    }

    /// Whether a naturally aligned group of the largest order starts here and is mapped in one
    /// piece: then no huge page in it has a hole, whatever its order.
    fn starts_whole_group(&self, block: &Block, index: usize, frame: Pfn) -> bool {
        let pages = group(index, self.largest);
        index == pages.start && mapped(block, &pages, index, frame).count() == pages.len()
    }

    /// Looks at the huge page around a candidate, and returns the frames that this settles.
    fn judge(
        &self,
        block: &Block,
        index: usize,
        frame: Pfn,
        frames: &impl Frames,
        holes: &mut Vec<Hole>,
    ) -> Result<Range<Pfn>> {
        let lies_congruently = |folio: &Folio| {
            (frame.0 ^ block.page(index).0).trailing_zeros() >= u32::from(folio.order)
        };
        let folio = Folio::of(frame, frames)?.filter(Folio::is_anonymous_thp);
        let Some(folio) = folio.filter(lies_congruently) else {
            let start = frame.align_down(self.smallest);
            return Ok(start..start + Pages::of_order(self.smallest));
        };
        let pages = group(index, folio.order);
        let mapped_here = mapped(block, &pages, index, frame).count();
        if mapped_here < pages.len() {
            holes.push(Hole {
                mapped_page: block.page(index),
                frame,
                order: folio.order,
                unmapped: Pages((pages.len() - mapped_here) as u64),
                sharing: self.sharing(block, &pages, (index, frame), frames)?,
            });
        }
        Ok(folio.head..folio.head + folio.size())
    }
}

impl HoleFinder {
    /// Whether another process maps some of the huge page: a page that is mapped here, or, as far as
    /// the kernel counts that, the first one of a stretch that isn't (after a fork, parts are kept
    /// and given up in stretches).
    fn sharing(
        &self,
        block: &Block,
        pages: &Range<usize>,
        (index, frame): (usize, Pfn),
        frames: &impl Frames,
    ) -> Result<Sharing> {
        let mut previous_mapped = true;
        for i in pages.clone() {
            let frame = expected(frame, index, i);
            let word = block.word(i);
            let mapped_here = word.frame() == Some(frame);
            let elsewhere = if mapped_here {
                !word.has(Word::EXCLUSIVE)
            } else {
                let counted = self.map_counts == MapCounts::EachPage && previous_mapped;
                counted && frames.map_count(frame)? > 0
            };
            if elsewhere {
                return Ok(Sharing::Shared);
            }
            previous_mapped = mapped_here;
        }
        Ok(Sharing::Exclusive)
    }
}

/// The indices of the naturally aligned group of `1 << order` pages around `index`.
fn group(index: usize, order: u8) -> Range<usize> {
    let start = index >> order << order;
    start..start + (1 << order)
}

/// The frame that page `i` has if it belongs to the same huge page as `frame` at `index`.
fn expected(frame: Pfn, index: usize, i: usize) -> Pfn {
    Pfn((frame.0 + i as u64).wrapping_sub(index as u64))
}

/// The indices of `pages` at which the huge page around `frame` is mapped.
fn mapped<'a>(
    block: &'a Block,
    pages: &Range<usize>,
    index: usize,
    frame: Pfn,
) -> impl Iterator<Item = usize> + use<'a> {
    let here = move |&i: &usize| block.word(i).frame() == Some(expected(frame, index, i));
    pages.clone().filter(here)
}
