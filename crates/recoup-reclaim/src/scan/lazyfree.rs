//! Finds memory that was freed with `MADV_FREE` and is still resident.
//!
//! Only a frame's flags tell it (anonymous, but no longer backed by swap), and reading a frame's
//! flags costs ten times what reading its `pagemap` word costs. So one page in [`Sampling::stride`]
//! is looked at; where a sample hits, its whole block and all following blocks are read page by
//! page until one has nothing. A run as long as the stride is always found; shorter ones are
//! found next to others. [`Sampling::EXACT`] looks at every page.
//!
//! Pages that another process maps too (after a fork) are not counted: the kernel won't drop them.
//! The last few base pages that a CPU freed lazily (up to 31) do not show it until it has gathered
//! more. Pages that were written again since count until the kernel notices (only it sees the dirty bit):
//! what truly can come back is known after the attempt.

use recoup_sys::kpage::{Flags, Frames};
use recoup_sys::pagemap::Word;
use recoup_sys::units::{PAGES_PER_BLOCK, PMD_ORDER};
use recoup_sys::{PageIdx, PageRange, Pages, Pfn, Result};

use super::block::Block;
use super::folio::Folio;

/// How closely lazily freed memory is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    stride: usize,
}

impl Sampling {
    /// Every page.
    pub const EXACT: Self = Self { stride: 1 };
    /// One page in 64: 256 KiB.
    pub const SPARSE: Self = Self { stride: 64 };

    /// Pages of which one is looked at.
    #[must_use]
    pub fn stride(self) -> Pages {
        Pages(self.stride as u64)
    }
}

/// A run of lazily freed pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyRun {
    /// Its pages.
    pub range: PageRange,
    /// What they are.
    pub made_of: MadeOf,
}

/// What lazily freed memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeOf {
    /// Base pages and small huge pages.
    SmallPages,
    /// Huge pages of 2 MiB: an attempt to drop one that is in use again would cost it its mapping
    /// as a whole.
    HugePages,
}

/// Finds lazily freed runs block by block.
#[derive(Debug)]
pub struct LazyFinder {
    sampling: Sampling,
    /// Whether the previous block had lazily freed memory.
    warm: bool,
    /// The run at whose end the last block stopped.
    open: Option<LazyRun>,
}

impl LazyFinder {
    /// A finder that looks this closely.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, warm: false, open: None }
    }

    /// The run that may go on in the next block.
    #[must_use]
    pub fn open_run(&self) -> Option<PageRange> {
        self.open.map(|run| run.range)
    }

    /// Adds the runs that end in this block or before it.
    ///
    /// # Errors
    /// Those of reading frames.
    pub fn visit(
        &mut self,
        block: &Block,
        frames: &impl Frames,
        runs: &mut Vec<LazyRun>,
    ) -> Result<()> {
        if self.open.is_some_and(|run| run.range.end != block.start()) {
            self.finish(runs);
        }
        let mut looker = Looker { block, frames, folio: None };
        if self.warm || looker.any_sample(self.sampling.stride)? {
            self.warm = self.read_closely(&mut looker, runs)?;
        } else {
            self.finish(runs);
        }
        Ok(())
    }

    fn read_closely<F: Frames>(
        &mut self,
        looker: &mut Looker<'_, F>,
        runs: &mut Vec<LazyRun>,
    ) -> Result<bool> {
        let mut any = false;
        for index in 0..PAGES_PER_BLOCK {
            match looker.lazy(index)? {
                Some(made_of) => {
                    any = true;
                    self.extend(looker.block.page(index), made_of, runs);
                }
                None => self.finish(runs),
            }
        }
        Ok(any)
    }

    fn extend(&mut self, page: PageIdx, made_of: MadeOf, runs: &mut Vec<LazyRun>) {
        if self.open.is_some_and(|run| run.made_of != made_of) {
            self.finish(runs);
        }
        let fresh = LazyRun { range: PageRange { start: page, end: page }, made_of };
        self.open.get_or_insert(fresh).range.end = page + Pages(1);
    }

    /// Adds the run that was still open.
    pub fn finish(&mut self, runs: &mut Vec<LazyRun>) {
        runs.extend(self.open.take());
    }
}

/// Looks at pages of one block, and remembers the last huge page that it met.
struct Looker<'a, F> {
    block: &'a Block<'a>,
    frames: &'a F,
    folio: Option<(Folio, Option<MadeOf>)>,
}

impl<F: Frames> Looker<'_, F> {
    fn any_sample(&mut self, stride: usize) -> Result<bool> {
        // The last page too, so that a run that goes on in the next block is found from its start.
        for index in (0..PAGES_PER_BLOCK).step_by(stride).chain([PAGES_PER_BLOCK - 1]) {
            if self.lazy(index)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lazy(&mut self, index: usize) -> Result<Option<MadeOf>> {
        let word = self.block.word(index);
        let Some(frame) = candidate(word) else { return Ok(None) };
        if let Some((folio, made_of)) = self.folio
            && folio.head <= frame
            && frame < folio.head + folio.size()
        {
            return Ok(made_of);
        }
        let (folio, made_of) = look_at(frame, self.frames)?;
        self.folio = folio.map(|folio| (folio, made_of));
        Ok(made_of)
    }
}

/// The frame of a page that may have been lazily freed: anonymous, and mapped here alone.
fn candidate(word: Word) -> Option<Pfn> {
    word.frame().filter(|_| word.is_present_anonymous() && word.has(Word::EXCLUSIVE))
}

/// Whether the page with this word was lazily freed.
///
/// # Errors
/// Those of reading frames.
pub fn is_lazily_freed(word: Word, frames: &impl Frames) -> Result<bool> {
    Ok(lazily_freed(word, frames)?.is_some())
}

/// What the page with this word is made of, if it was lazily freed.
///
/// # Errors
/// Those of reading frames.
pub fn lazily_freed(word: Word, frames: &impl Frames) -> Result<Option<MadeOf>> {
    match candidate(word) {
        Some(frame) => Ok(look_at(frame, frames)?.1),
        None => Ok(None),
    }
}

/// A huge page is lazily freed as a whole or not at all, and its head's flags tell: before Linux
/// 6.9, tails have no such flag of their own.
fn look_at(frame: Pfn, frames: &impl Frames) -> Result<(Option<Folio>, Option<MadeOf>)> {
    let flags = frames.flags(frame)?;
    let freed = |flags: Flags| {
        flags.has(Flags::ANON) && !flags.has(Flags::SWAPBACKED | Flags::ZERO_PAGE | Flags::HUGE)
    };
    if !flags.has(Flags::COMPOUND_HEAD | Flags::COMPOUND_TAIL) {
        return Ok((None, freed(flags).then_some(MadeOf::SmallPages)));
    }
    let Some(folio) = Folio::of(frame, frames)? else { return Ok((None, None)) };
    let made_of = match folio.order {
        PMD_ORDER => MadeOf::HugePages,
        _ => MadeOf::SmallPages,
    };
    Ok((Some(folio), freed(folio.flags).then_some(made_of)))
}
