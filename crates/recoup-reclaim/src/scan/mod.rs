//! Reads what page tables hold, and finds what is stuck.
//!
//! A [`walk::Walk`] yields the 2 MiB blocks that hold something or have an empty page table; each
//! finder looks at every block that holds something.
//! To find something new, add a file with a finder and a line to `Scan::visit`.

pub mod block;
pub mod folio;
pub mod holes;
pub mod lazyfree;
pub mod owners;
pub mod picture;
pub mod tables;
pub mod walk;

use recoup_sys::kpage::{Flags, Frames};
use recoup_sys::units::{PAGES_PER_BLOCK, PMD_ORDER};
use recoup_sys::{PageRange, Pages, Pfn, Result};

use block::Block;
use holes::{Hole, HoleFinder, MapCounts};
use lazyfree::{LazyFinder, LazyRun, Sampling};
use owners::Owners;
use picture::Painter;
use tables::Census;
use walk::Walk;

/// What a scan looks for, the same for all of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Orders of anonymous huge pages that exist on this host, smallest first.
    pub orders: Vec<u8>,
    /// Whether the kernel counts the mappings of single pages.
    pub map_counts: MapCounts,
    /// How closely lazily freed memory is looked for.
    pub sampling: Sampling,
    /// The frame of the shared zero page.
    pub zero_page: Option<Pfn>,
    /// Whether a picture is wanted.
    pub picture: Picture,
}

/// Whether a picture of the address space is made on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// No picture.
    Skip,
    /// One cell for each block.
    Draw,
}

/// Whether a block maps the shared huge zero page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugeZero {
    /// It does, as a whole.
    Yes,
    /// It holds something else.
    No,
}

/// What was found since the findings were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Huge pages that are mapped only in part.
    pub holes: Vec<Hole>,
    /// Runs of lazily freed pages that are still resident.
    pub lazy: Vec<LazyRun>,
}

impl Findings {
    /// How many things were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holes.len() + self.lazy.len()
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A scan in progress: finders over a walk.
#[derive(Debug)]
pub struct Scan<'a, F> {
    frames: Option<&'a F>,
    holes: HoleFinder,
    lazy: LazyFinder,
    painter: Option<Painter>,
    /// What page tables are needed for.
    pub census: Census,
    /// Who owns the anonymous pages.
    pub owners: Owners,
    /// Pages that were found to hold something.
    pub pages: Pages,
}

impl<'a, F: Frames> Scan<'a, F> {
    /// Begins a scan. Without `frames`, huge pages and lazily freed memory cannot be told from
    /// other memory, and only page tables and owners are looked at.
    #[must_use]
    pub fn new(settings: &Settings, frames: Option<&'a F>) -> Self {
        Self {
            frames,
            holes: HoleFinder::new(&settings.orders, settings.map_counts),
            lazy: LazyFinder::new(settings.sampling),
            painter: (settings.picture == Picture::Draw).then(Painter::default),
            census: Census::new(settings.zero_page),
            owners: Owners::default(),
            pages: Pages::ZERO,
        }
    }

    /// Goes on until about `enough` things are found or the walk ends, and takes the findings.
    /// A block is never divided, so a few more may come. Empty findings mean that the walk ended.
    ///
    /// # Errors
    /// Those of the walk and of reading frames.
    pub fn find(&mut self, walk: &mut Walk, enough: usize) -> Result<Findings> {
        let mut findings = Findings::default();
        while findings.len() < enough {
            match walk.next_block()? {
                Some(block) => self.visit(&block, &mut findings)?,
                None => {
                    self.lazy.finish(&mut findings.lazy);
                    break;
                }
            }
        }
        Ok(findings)
    }

    fn visit(&mut self, block: &Block, findings: &mut Findings) -> Result<()> {
        if block.is_empty() {
            self.painter.iter_mut().for_each(|painter| painter.paint_empty_table(block));
            return Ok(());
        }
        self.pages += block.used();
        let zero = self.is_huge_zero_page(block)?;
        self.census.visit(block, zero);
        if zero == HugeZero::Yes {
            self.painter.iter_mut().for_each(|painter| painter.paint_zero_page(block));
            return Ok(());
        }
        self.owners.visit(block, self.census.zero_page());
        let Some(frames) = self.frames else { return Ok(()) };
        let (holes_before, lazy_before) = (findings.holes.len(), findings.lazy.len());
        self.holes.visit(block, frames, &mut findings.holes)?;
        self.lazy.visit(block, frames, &mut findings.lazy)?;
        if let Some(painter) = &mut self.painter {
            let holes = &findings.holes[holes_before..];
            let lazy = findings.lazy[lazy_before..].iter().map(|run| run.range);
            let lazy: Vec<PageRange> = lazy.chain(self.lazy.open_run()).collect();
            painter.paint(block, holes, &lazy, self.census.zero_page(), frames)?;
        }
        Ok(())
    }

    /// Whether the block maps the huge zero page: only its frame's flags tell.
    fn is_huge_zero_page(&self, block: &Block) -> Result<HugeZero> {
        let ends = (block.word(0).frame(), block.word(PAGES_PER_BLOCK - 1).frame());
        if let (Some(first), Some(last), Some(frames)) = (ends.0, ends.1, self.frames)
            && first.align_down(PMD_ORDER) == first
            && last.0 == first.0 + PAGES_PER_BLOCK as u64 - 1
            && frames.flags(first)?.has(Flags::ZERO_PAGE)
        {
            return Ok(HugeZero::Yes);
        }
        Ok(HugeZero::No)
    }

    /// The picture, if one was wanted.
    #[must_use]
    pub fn into_picture(self) -> Vec<picture::Cell> {
        self.painter.map(Painter::into_cells).unwrap_or_default()
    }
}
