//! What each block of an address space holds, as data for a picture.

use recoup_sys::kpage::{Flags, Frames};
use recoup_sys::pagemap::Word;
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{PageIdx, PageRange, Pages, Pfn, Result};

use super::block::Block;
use super::folio::Folio;
use super::holes::Hole;

/// What pages of a block may be, most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Charged, but not mapped: the hole of a huge page.
    Hole,
    /// Freed lazily, still resident.
    LazilyFreed,
    /// A page table that maps nothing.
    EmptyTable,
    /// The shared zero page.
    ZeroPage,
    /// A huge page that is mapped as a whole.
    WholeHugePage,
    /// Other anonymous memory in use.
    Anonymous,
    /// Pages of files and of shared memory.
    File,
    /// Swapped out.
    Swapped,
}

impl Content {
    /// All kinds, most telling first.
    pub const ALL: [Self; 8] = [
        Self::Hole,
        Self::LazilyFreed,
        Self::EmptyTable,
        Self::ZeroPage,
        Self::WholeHugePage,
        Self::Anonymous,
        Self::File,
        Self::Swapped,
    ];
}

/// The contents of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The block's first page.
    pub start: PageIdx,
    /// Pages of each kind, in the order of [`Content::ALL`]. An empty table counts as a block full.
    pub pages: [u16; Content::ALL.len()],
}

impl Cell {
    /// A cell of which nothing is known yet.
    #[must_use]
    pub fn new(start: PageIdx) -> Self {
        Self { start, pages: [0; Content::ALL.len()] }
    }

    /// Pages of one kind.
    #[must_use]
    pub fn count(&self, content: Content) -> u16 {
        self.pages[content as usize]
    }

    /// Adds pages of one kind.
    pub fn add(&mut self, content: Content, pages: Pages) {
        let pages = u16::try_from(pages.0).unwrap_or(u16::MAX);
        let count = &mut self.pages[content as usize];
        *count = count.saturating_add(pages);
    }
}

/// Paints blocks into cells.
#[derive(Debug, Default)]
pub struct Painter {
    cells: Vec<Cell>,
}

impl Painter {
    /// Adds a block whose page table maps nothing.
    pub(super) fn paint_empty_table(&mut self, block: &Block) {
        self.paint_all(block, Content::EmptyTable);
    }

    /// Adds a block that maps the huge zero page.
    pub(super) fn paint_zero_page(&mut self, block: &Block) {
        self.paint_all(block, Content::ZeroPage);
    }

    fn paint_all(&mut self, block: &Block, content: Content) {
        let mut cell = Cell::new(block.start());
        cell.add(content, block.range().length());
        self.cells.push(cell);
    }

    /// Adds a block, given what the finders found in it.
    pub(super) fn paint(
        &mut self,
        block: &Block,
        holes: &[Hole],
        lazy: &[PageRange],
        zero_page: Option<Pfn>,
        frames: &impl Frames,
    ) -> Result<()> {
        let mut cell = Cell::new(block.start());
        let lazily_freed = |page| lazy.iter().any(|run| run.contains(page));
        let mut index = 0;
        while index < PAGES_PER_BLOCK {
            let whole = whole_huge_page(block, index, frames)?;
            let word = block.word(index);
            let content = if lazily_freed(block.page(index)) {
                Some(Content::LazilyFreed)
            } else if whole.is_some() {
                Some(Content::WholeHugePage)
            } else {
                content(word, zero_page)
            };
            let pages = whole.unwrap_or(1);
            content.into_iter().for_each(|kind| cell.add(kind, Pages(pages as u64)));
            index += pages;
        }
        holes.iter().for_each(|hole| cell.add(Content::Hole, hole.unmapped));
        self.cells.push(cell);
        Ok(())
    }

    /// The cells, by address.
    #[must_use]
    pub fn into_cells(self) -> Vec<Cell> {
        self.cells
    }
}

fn content(word: Word, zero_page: Option<Pfn>) -> Option<Content> {
    if word.has(Word::SWAPPED) {
        Some(Content::Swapped)
    } else if word.has(Word::FILE) {
        Some(Content::File)
    } else if word.has(Word::PRESENT) && zero_page.is_some() && word.frame() == zero_page {
        Some(Content::ZeroPage)
    } else {
        word.has(Word::PRESENT).then_some(Content::Anonymous)
    }
}

/// The pages of the huge page that starts at `index` and is mapped as a whole.
fn whole_huge_page(block: &Block, index: usize, frames: &impl Frames) -> Result<Option<usize>> {
    let word = block.word(index);
    let Some(frame) = word.frame().filter(|_| word.is_present_anonymous()) else {
        return Ok(None);
    };
    let next_is_contiguous = block.word((index + 1) % PAGES_PER_BLOCK).frame();
    if !index.is_multiple_of(4) || next_is_contiguous != Some(frame + Pages(1)) {
        return Ok(None);
    }
    if !frames.flags(frame)?.has(Flags::COMPOUND_HEAD) {
        return Ok(None);
    }
    let folio = Folio::of(frame, frames)?.filter(Folio::is_anonymous_thp);
    let size = folio.map_or(0, |folio| 1_usize << folio.order);
    let contiguous = |i: usize| block.word(index + i).frame() == Some(frame + Pages(i as u64));
    let whole = size > 0 && index + size <= PAGES_PER_BLOCK && (0..size).all(contiguous);
    Ok(whole.then_some(size))
}
