//! A range of addresses whose owner says which of its pages are in use, so that page tables which
//! map none of them can go.
//!
//! # What is guaranteed
//! A page table is only freed while none of its pages is in use, and [`Reserved::reuse`] waits
//! until that is over: a page that its owner took never changes behind its back, as long as it takes
//! none whose giving back has not returned.
//!
//! Its book asks the program's allocator for memory under a lock: it is not for the memory of that
//! allocator itself.

#![expect(unsafe_code, reason = "memory is mapped anew where its owner doesn't use it")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::blockset::BlockSet;
use crate::error::{Error, Result};
use crate::own::{Backing, Released, address, length};
use crate::region::Region;
use crate::units::{
    BLOCK, Bytes, PAGES_PER_BLOCK, PMD_TABLE_SPAN, PUD_ORDER, PageIdx, PageRange, Pages,
};

/// Which huge pages a range may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// As the host's settings say.
    HostDefault,
    /// `MADV_HUGEPAGE`.
    Wanted,
    /// `MADV_NOHUGEPAGE`.
    Unwanted,
}

/// How empty page tables are freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableReclaim {
    /// By a large discard: where the kernel has `CONFIG_PT_RECLAIM` (Linux 6.14).
    Discard,
    /// By mapping the range anew, on every kernel.
    Remap,
}

/// Private anonymous memory with one owner who says which pages are in use.
#[derive(Debug)]
pub struct Reserved {
    pages: PageRange,
    huge_pages: HugePages,
    by: TableReclaim,
    usage: Mutex<Usage>,
    /// The mapping, where it was made here.
    region: Option<Region>,
}

/// The page tables that went with what was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesFreed {
    /// What they mapped, by address: 2 MiB blocks and gigabytes. Nothing of it is mapped any more.
    pub ranges: Vec<PageRange>,
    /// How many of them are 2 MiB blocks.
    pub blocks: u64,
    /// How many of them are gigabytes.
    pub gigabytes: u64,
}

impl TablesFreed {
    fn add(&mut self, range: PageRange) {
        let is_block = range.length().bytes() == BLOCK;
        *(if is_block { &mut self.blocks } else { &mut self.gigabytes }) += 1;
        self.ranges.push(range);
    }
}

/// Memory of a [`Reserved`], to read and write. What is written to pages that are not in use may be
/// lost at any time.
#[derive(Debug)]
pub struct Contents<'a>(&'a mut Region);

impl Contents<'_> {
    /// As [`Region::read`].
    pub fn read(&self, offset: usize, buffer: &mut [u8]) {
        self.0.read(offset, buffer);
    }

    /// As [`Region::write`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }

    /// As [`Region::touch`].
    pub fn touch(&mut self, first: Pages, count: Pages) {
        self.0.touch(first, count);
    }
}

impl Reserved {
    /// Maps `length` bytes, none of which is in use. Whoever makes references into it vouches that
    /// they only live while their pages are in use.
    ///
    /// # Errors
    /// Those of mmap(2) and madvise(2).
    pub fn map(length: Bytes, huge_pages: HugePages, by: TableReclaim) -> Result<Self> {
        let region = Region::new(length)?;
        let pages = region.pages();
        let usage = Mutex::default();
        let reserved = Self { pages, huge_pages, by, usage, region: Some(region) };
        reserved.advise_huge_pages(pages)?;
        Ok(reserved)
    }

    /// Takes charge of `length` bytes from `start`, all of them in use.
    ///
    /// # Safety
    /// As long as the result lives, these bytes are private anonymous memory, readable and writable,
    /// mapped by the caller (`MAP_NORESERVE`, or the mapping falls to pieces) with no other
    /// attributes than `huge_pages`, no memory policy either. From the start of a call of
    /// [`Reserved::give_back`] until one of [`Reserved::reuse`] that began after it returned has
    /// returned as well, nobody touches the pages that were given back.
    #[must_use]
    pub unsafe fn from_raw(
        start: NonNull<u8>,
        length: usize,
        huge_pages: HugePages,
        by: TableReclaim,
    ) -> Self {
        // SAFETY: nothing is given back through it; it only says which whole pages there are.
        let pages = unsafe { Released::new(start.as_ptr(), length, Backing::Private) }.pages();
        let mut usage = Usage::default();
        usage.reuse(pages);
        Self { pages, huge_pages, by, usage: Mutex::new(usage), region: None }
    }

    /// Its pages.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Its first byte.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        address(self.pages.start).cast()
    }

    /// The memory, where it was mapped here: a way to use it without `unsafe`.
    pub fn contents(&mut self) -> Option<Contents<'_>> {
        self.region.as_mut().map(Contents)
    }

    /// The owner is about to use these pages. Must return before any of them is touched. Costs 20 ns
    /// a 2 MiB block, and waits for the freeing of a table (1 us, or 50 us for a gigabyte's).
    pub fn reuse(&self, pages: PageRange) {
        self.usage().reuse(pages.intersection(self.pages));
    }

    /// The owner gives these pages back, those of them that lie in the range: it doesn't use them any
    /// more, and will not before it called [`Reserved::reuse`] after this returned.
    ///
    /// Blocks of 2 MiB, and gigabytes, of which no page is in use any more go with their page tables.
    /// The other pages are handed to `discard`, which gives them back to the kernel.
    ///
    /// # Errors
    /// That of `discard`; else those of madvise(2) or mmap(2), where tables stay. Either way
    /// everything else was done.
    pub fn give_back(
        &self,
        pages: PageRange,
        mut discard: impl FnMut(Released<'_>) -> Result<()>,
    ) -> Result<TablesFreed> {
        let pages = pages.intersection(self.pages);
        let mut freed = TablesFreed::default();
        let tables = self.free_idle(pages, &mut freed);
        let mut result = Ok(());
        let mut rest = pages.start;
        let end = PageRange { start: pages.end, end: pages.end };
        let gone: Vec<PageRange> = freed.ranges.iter().copied().chain([end]).collect();
        for next in gone {
            let part = PageRange { start: rest, end: next.start.min(pages.end) };
            rest = rest.max(next.end);
            if !part.is_empty() {
                // SAFETY: mapped as long as `self`; that nobody uses these pages is what the owner
                // promised when this was made.
                let released = unsafe {
                    Released::new(address(part.start).cast(), length(part), Backing::Private)
                };
                result = result.and(discard(released));
            }
        }
        result.and(tables).map(|()| freed)
    }

    /// Frees the tables of what has just lost its last page in use. Under the lock, so that nobody
    /// takes a page of it meanwhile.
    fn free_idle(&self, pages: PageRange, freed: &mut TablesFreed) -> Result<()> {
        let mut usage = self.usage();
        let idle = usage.give_back(pages, self.pages);
        let mut result = Ok(());
        for (start, span) in idle.spans() {
            let range = PageRange::starting_at(start, span.whole_pages());
            if range.intersection(self.pages) != range {
                continue;
            }
            // A discard leaves the table of a gigabyte, whatever the kernel.
            let done = if span == BLOCK { self.free_table(range) } else { self.map_anew(range) };
            match done {
                Ok(()) => freed.add(range),
                Err(error) => result = result.and(Err(error)),
            }
        }
        freed.ranges.sort_unstable();
        result
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        // Every change leaves it valid, whoever panicked while holding it.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_table(&self, block: PageRange) -> Result<()> {
        match self.by {
            TableReclaim::Remap => self.map_anew(block),
            TableReclaim::Discard => {
                // SAFETY: none of the block's pages is in use (the caller holds the usage), which is
                // what the owner promised by `from_raw` or has no way around of by `map`.
                unsafe {
                    rustix::mm::madvise(address(block.start), length(block), Advice::LinuxDontNeed)
                }
                .map_err(|e| Error::os("free the page table of", block.to_string(), e))
            }
        }
    }

    fn map_anew(&self, range: PageRange) -> Result<()> {
        // SAFETY: the range lies in this reservation, and none of its pages is in use (the caller
        // holds the usage): what is replaced holds nothing that anybody needs.
        unsafe { map_anew(range, self.huge_pages) }
            .map_err(|e| Error::os("map anew", range.to_string(), e))
    }

    fn advise_huge_pages(&self, range: PageRange) -> Result<()> {
        self.huge_pages.advise(range).map_err(|e| Error::os("advise on", range.to_string(), e))
    }
}

impl HugePages {
    fn advise(self, range: PageRange) -> rustix::io::Result<()> {
        let advice = match self {
            Self::HostDefault => return Ok(()),
            Self::Wanted => Advice::LinuxHugepage,
            Self::Unwanted => Advice::LinuxNoHugepage,
        };
        // SAFETY: this advice changes no byte.
        unsafe { rustix::mm::madvise(address(range.start), length(range), advice) }
    }
}

/// Maps fresh private anonymous memory, readable and writable, in place of what is there. Costs 0.5 us a
/// page table that goes, under the mmap lock for writing.
///
/// # Errors
/// Those of mmap(2) and madvise(2). Before Linux 6.12 a call that fails for want of memory may have unmapped
/// already what was there: then it is tried once more, before anybody else maps there.
///
/// # Safety
/// What is there is mapped in the same way, and nobody needs what it holds.
pub(crate) unsafe fn map_anew(range: PageRange, huge_pages: HugePages) -> rustix::io::Result<()> {
    let map = |how: MapFlags| {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | how;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the caller's promise.
        unsafe {
            rustix::mm::mmap_anonymous(address(range.start), length(range), protection, flags)
        }
    };
    if let Err(error) = map(MapFlags::FIXED) {
        // Refused where all is still there.
        map(MapFlags::FIXED_NOREPLACE).map_err(|_| error)?;
    }
    huge_pages.advise(range)
}

/// Which pages are in use: blocks and gigabytes that are not listed have none.
#[derive(Debug, Default)]
struct Usage {
    /// The pages in use, by block.
    blocks: BTreeMap<PageIdx, BlockSet>,
    /// How many blocks of a gigabyte have pages in use.
    gigabytes: BTreeMap<PageIdx, u64>,
}

/// What has just lost its last page in use. Blocks of a listed gigabyte are not listed.
#[derive(Debug, Default)]
struct Idle {
    blocks: Vec<PageIdx>,
    gigabytes: Vec<PageIdx>,
}

impl Usage {
    fn reuse(&mut self, pages: PageRange) {
        for part in by_block(pages) {
            let block = part.start.block_start();
            let gigabytes = &mut self.gigabytes;
            let in_use = self.blocks.entry(block).or_insert_with(|| {
                *gigabytes.entry(gigabyte_of(block)).or_default() += 1;
                BlockSet::default()
            });
            in_use.insert(part);
        }
    }

    /// Strikes pages off. Gigabytes that don't lie in `all` are told block by block.
    fn give_back(&mut self, pages: PageRange, all: PageRange) -> Idle {
        let mut idle = Idle::default();
        for part in by_block(pages) {
            let block = part.start.block_start();
            let Some(in_use) = self.blocks.get_mut(&block) else { continue };
            in_use.remove(part);
            if in_use.is_empty() {
                self.blocks.remove(&block);
                idle.blocks.push(block);
                self.leave(gigabyte_of(block), all, &mut idle);
            }
        }
        idle
    }

    /// A block of the gigabyte has no page in use any more.
    fn leave(&mut self, gigabyte: PageIdx, all: PageRange, idle: &mut Idle) {
        let Some(blocks) = self.gigabytes.get_mut(&gigabyte) else { return };
        *blocks -= 1;
        if *blocks > 0 {
            return;
        }
        self.gigabytes.remove(&gigabyte);
        let span = PageRange::starting_at(gigabyte, PMD_TABLE_SPAN.whole_pages());
        if span.intersection(all) == span {
            idle.blocks.retain(|&block| gigabyte_of(block) != gigabyte);
            idle.gigabytes.push(gigabyte);
        }
    }
}

impl Idle {
    /// Where each begins, and how long it is.
    fn spans(&self) -> impl Iterator<Item = (PageIdx, Bytes)> {
        let blocks = self.blocks.iter().map(|&block| (block, BLOCK));
        blocks.chain(self.gigabytes.iter().map(|&gigabyte| (gigabyte, PMD_TABLE_SPAN)))
    }
}

fn gigabyte_of(page: PageIdx) -> PageIdx {
    page.align_down(PUD_ORDER)
}

/// The range, cut at blocks.
fn by_block(pages: PageRange) -> impl Iterator<Item = PageRange> {
    let blocks = pages.blocks();
    (blocks.start.0..blocks.end.0).step_by(PAGES_PER_BLOCK).map(move |start| {
        PageRange::starting_at(PageIdx(start), BLOCK.whole_pages()).intersection(pages)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: PageRange = PageRange { start: PageIdx(0), end: PageIdx(1 << 40) };

    #[test]
    fn a_part_of_a_gigabyte_is_told_block_by_block() {
        let mut usage = Usage::default();
        usage.reuse(range(0, 1024));
        let idle = usage.give_back(range(0, 1024), range(0, 4096));
        assert_eq!((idle.blocks.len(), idle.gigabytes.len()), (2, 0));
    }

    fn range(start: u64, length: u64) -> PageRange {
        PageRange::starting_at(PageIdx(start), Pages(length))
    }

    #[test]
    fn the_last_page_of_a_block_makes_it_idle_and_the_last_block_its_gigabyte() {
        let mut usage = Usage::default();
        let gigabyte = PMD_TABLE_SPAN.whole_pages().0;
        usage.reuse(range(0, 1024));
        usage.reuse(range(gigabyte, 1));
        assert!(usage.give_back(range(0, 511), ALL).blocks.is_empty());
        assert_eq!(usage.give_back(range(511, 1), ALL).blocks, [PageIdx(0)]);
        let idle = usage.give_back(range(512, 512), ALL);
        assert_eq!((idle.blocks, idle.gigabytes), (vec![], vec![PageIdx(0)]));
        assert_eq!(usage.give_back(range(gigabyte, 9), ALL).gigabytes, [PageIdx(gigabyte)]);
        assert!(usage.give_back(range(gigabyte, 9), ALL).gigabytes.is_empty(), "only once");
    }

    proptest! {
        #[test]
        fn usage_is_a_set_of_pages(
            steps in prop::collection::vec((any::<bool>(), 0_u64..3000, 1_u64..700), 1..60),
        ) {
            let (mut usage, mut model) = (Usage::default(), BTreeSet::new());
            for (take, start, length) in steps {
                let before: BTreeSet<u64> = model.iter().map(|page| page / 512).collect();
                if take {
                    usage.reuse(range(start, length));
                    model.extend(start..start + length);
                } else {
                    let idle = usage.give_back(range(start, length), ALL);
                    model.retain(|page| !(start..start + length).contains(page));
                    let now: BTreeSet<u64> = model.iter().map(|page| page / 512).collect();
                    let blocks: Vec<u64> = before.difference(&now).copied().collect();
                    if now.is_empty() && !before.is_empty() {
                        prop_assert_eq!(idle.gigabytes, [PageIdx(0)]);
                    } else {
                        let idle: Vec<u64> = idle.blocks.iter().map(|block| block.0 / 512).collect();
                        prop_assert_eq!(idle, blocks);
                    }
                }
                let pages: u32 = usage.blocks.values().map(BlockSet::count).sum();
                prop_assert_eq!(u64::from(pages), model.len() as u64);
                prop_assert_eq!(
                    usage.gigabytes.values().sum::<u64>(), usage.blocks.len() as u64);
            }
        }
    }
}
