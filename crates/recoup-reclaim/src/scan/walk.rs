//! Yields the blocks of an address space that hold something or have a page table, at the cost of
//! what is there.
//!
//! Two ways of going on are combined. *Streaming* reads `pagemap` word by word: the cheapest for
//! dense memory. On an empty block, *seeking* asks `PAGEMAP_SCAN` where the next page tables are: the
//! cheapest for sparse memory, and it tells an empty table from none. Where the kernel does not show
//! tables, it is asked where the next pages are. A seek is bounded, so that no call holds the
//! target's mmap lock for long. Where the kernel cannot seek, all is streamed.

use std::collections::VecDeque;

use recoup_sys::pagemap::{Pagemap, Run};
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{Error, Features, PageIdx, PageRange, Pages, Result};

use super::block::Block;

/// Blocks that one read fetches at most: 64 KiB of words, which stay in the second-level cache.
const READ_BLOCKS: usize = 16;
/// Runs that one seek can return.
const SEEK_RUNS: usize = 512;
const BLOCK_PAGES: Pages = Pages(PAGES_PER_BLOCK as u64);

/// Where words come from. The kernel has one implementation; tests have others.
pub trait Words {
    /// Reads words from `start` on; see [`Pagemap::read`].
    ///
    /// # Errors
    /// Those of pread(2).
    fn read(&self, start: PageIdx, words: &mut [u64]) -> Result<usize>;

    /// Finds the next runs that page tables or huge pages map, or at least those that hold something,
    /// and how far was looked; see [`Pagemap::find_tables`] and [`Pagemap::find_held`]. Nothing
    /// where this cannot be asked.
    ///
    /// # Errors
    /// Those of the ioctl.
    fn seek(&self, range: PageRange, runs: &mut Vec<PageRange>) -> Result<Option<PageIdx>>;
}

/// How a kernel's `pagemap` is searched.
#[derive(Debug)]
pub enum KernelWords<'a> {
    /// For page tables.
    Tables(&'a Pagemap),
    /// For pages that hold something, where the kernel does not show tables.
    Held(&'a Pagemap),
    /// Not at all: before Linux 6.7.
    StreamOnly(&'a Pagemap),
}

impl<'a> KernelWords<'a> {
    /// Searched as well as this kernel can.
    #[must_use]
    pub fn new(pagemap: &'a Pagemap, features: &Features) -> Self {
        if features.empty_tables.works() {
            Self::Tables(pagemap)
        } else if features.pagemap_scan.works() {
            Self::Held(pagemap)
        } else {
            Self::StreamOnly(pagemap)
        }
    }
}

impl Words for KernelWords<'_> {
    fn read(&self, start: PageIdx, words: &mut [u64]) -> Result<usize> {
        let (Self::Tables(pagemap) | Self::Held(pagemap) | Self::StreamOnly(pagemap)) = self;
        pagemap.read(start, words)
    }

    fn seek(&self, range: PageRange, found: &mut Vec<PageRange>) -> Result<Option<PageIdx>> {
        let mut runs = [Run::default(); SEEK_RUNS];
        let scanned = match self {
            Self::Tables(pagemap) => pagemap.find_tables(range, &mut runs)?,
            Self::Held(pagemap) => pagemap.find_held(range, &mut runs)?,
            Self::StreamOnly(_) => return Ok(None),
        };
        found.extend(scanned.runs.iter().map(|run| run.range()));
        Ok(Some(scanned.looked_until))
    }
}

/// A walk over ranges of whole blocks.
pub struct Walk<'a> {
    source: &'a dyn Words,
    ranges: VecDeque<PageRange>,
    /// The next block to look at.
    position: PageIdx,
    /// Words of the blocks from `buffer_range.start` on.
    buffer: Vec<u64>,
    buffer_range: PageRange,
    /// Blocks that a seek found, not yet passed.
    found: VecDeque<PageRange>,
    /// What lies before this and in no `found` range holds nothing, and has no table as far as tables
    /// are shown.
    looked_until: PageIdx,
    /// Blocks that the next streaming read fetches: doubles while they are not empty.
    stride: usize,
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<'a> Walk<'a> {
    /// A walk over `ranges`, which are of whole blocks and ascend.
    #[must_use]
    pub fn new(source: &'a dyn Words, ranges: &[PageRange]) -> Self {
        Self {
            source,
            position: ranges.first().map_or(PageIdx(0), |range| range.start),
            ranges: ranges.iter().copied().collect(),
            buffer: vec![0; READ_BLOCKS * PAGES_PER_BLOCK],
            buffer_range: PageRange::default(),
            found: VecDeque::new(),
            looked_until: PageIdx(0),
            stride: 1,
        }
    }

    /// The next block that holds something, or has a page table that maps nothing, as far as that
    /// is shown.
    ///
    /// # Errors
    /// Those of reading; [`Error::AddressSpaceGone`] once that is so.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>> {
        while let Some(range) = self.current_range() {
            self.skip_what_has_no_table(range);
            if self.position >= range.end {
                continue;
            }
            if !self.buffer_range.contains(self.position) {
                self.fill(range)?;
            }
            let start = self.position;
            let has_table = self.found.front().is_some_and(|tables| tables.contains(start));
            if has_table || !self.block(start).is_empty() {
                self.position = start + BLOCK_PAGES;
                return Ok(Some(self.block(start)));
            }
            self.seek(range)?;
        }
        Ok(None)
    }

    fn current_range(&mut self) -> Option<PageRange> {
        while self.ranges.front().is_some_and(|range| self.position >= range.end) {
            self.ranges.pop_front();
            self.found.clear();
            self.stride = 1;
        }
        let range = *self.ranges.front()?;
        self.position = self.position.max(range.start);
        Some(range)
    }

    fn skip_what_has_no_table(&mut self, range: PageRange) {
        while self.found.front().is_some_and(|blocks| blocks.end <= self.position) {
            self.found.pop_front();
        }
        let next = self.found.front().map_or(self.looked_until, |blocks| blocks.start);
        self.position = self.position.max(next.min(range.end));
    }

    /// Reads the block at the position, and some of those behind it.
    fn fill(&mut self, range: PageRange) -> Result<()> {
        let (until, most) = match self.found.front() {
            Some(blocks) => (blocks.end.min(range.end), READ_BLOCKS),
            None => (range.end, self.stride),
        };
        self.stride = READ_BLOCKS.min(self.stride * 2);
        let wanted = Pages((most * PAGES_PER_BLOCK) as u64).min(until - self.position);
        let words = usize::try_from(wanted.0).unwrap_or(usize::MAX).min(self.buffer.len());
        if self.source.read(self.position, &mut self.buffer[..words])? < words {
            return Err(Error::AddressSpaceGone);
        }
        self.buffer_range = PageRange::starting_at(self.position, wanted);
        Ok(())
    }

    /// Finds out whether the empty block at the position has a table, and where to go on.
    fn seek(&mut self, range: PageRange) -> Result<()> {
        self.found.clear();
        let this_block_end = self.position + BLOCK_PAGES;
        let mut runs = Vec::new();
        let rest = PageRange { start: self.position, ..range };
        match self.source.seek(rest, &mut runs)? {
            Some(until) => {
                runs.iter().for_each(|run| self.add_found(run.blocks()));
                self.looked_until = until.block_start().max(this_block_end);
                self.stride = 1;
            }
            None => {
                self.looked_until = this_block_end;
                self.stride = READ_BLOCKS;
            }
        }
        Ok(())
    }

    fn add_found(&mut self, blocks: PageRange) {
        match self.found.back_mut() {
            Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
            _ => self.found.push_back(blocks),
        }
    }

    fn block(&self, start: PageIdx) -> Block<'_> {
        let offset = usize::try_from((start - self.buffer_range.start).0).unwrap_or(usize::MAX);
        let (blocks, _) = self.buffer.as_chunks::<PAGES_PER_BLOCK>();
        Block::new(start, &blocks[offset / PAGES_PER_BLOCK])
    }
}
