//! The scanner against a naive model: generated memory, whose `pagemap` words and frame flags are
//! derived from it, is searched page by page without any of the scanner's short cuts.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use recoup_reclaim::scan::holes::{Hole, MapCounts, Sharing};
use recoup_reclaim::scan::lazyfree::{LazyRun, Sampling};
use recoup_reclaim::scan::walk::{Walk, Words};
use recoup_reclaim::scan::{Findings, Picture, Scan, Settings};
use recoup_sys::kpage::{Flags, Frames};
use recoup_sys::pagemap::Word;
use recoup_sys::{Error, PageIdx, PageRange, Pages, Pfn, Result};

const BLOCK: u64 = 512;
/// Blocks of the generated address space; it starts somewhere above zero.
const BLOCKS: u64 = 8;
const FIRST: u64 = 40 * BLOCK;
const ZERO_PAGE: u64 = 7;
/// Where the frames of generated memory begin: congruent with `FIRST`.
const FRAMES: u64 = 1 << 20;

/// What a stretch of the address space is made of.
#[derive(Clone, Debug)]
enum Stuff {
    /// A huge page of this order, congruent; lazily freed or not; some pages kept.
    Thp {
        order: u8,
        lazy: bool,
        kept: BTreeSet<u64>,
        elsewhere: bool,
    },
    /// Base pages: how far off congruence their frames are, and whether lazily freed.
    Small {
        pages: u64,
        skew: u64,
        lazy: bool,
    },
    Zero {
        pages: u64,
    },
    File {
        pages: u64,
    },
    Swapped {
        pages: u64,
    },
    Nothing {
        pages: u64,
    },
}

fn stuff() -> impl Strategy<Value = Stuff> {
    let order = prop_oneof![Just(9_u8), Just(4), Just(2)];
    let thp =
        (order, any::<bool>(), prop::collection::btree_set(0_u64..512, 0..40), 0..3_u8, 0..5_u8)
            .prop_map(|(order, lazy, some, fill, other)| {
                let size = 1_u64 << order;
                let kept = if fill == 0 {
                    (0..size).collect()
                } else {
                    some.iter().map(|p| p % size).collect()
                };
                Stuff::Thp { order, lazy, kept, elsewhere: other == 0 }
            });
    prop_oneof![
        4 => thp,
        2 => (1_u64..700, 0_u64..9, any::<bool>())
            .prop_map(|(pages, skew, lazy)| Stuff::Small { pages, skew, lazy }),
        1 => (1_u64..600).prop_map(|pages| Stuff::Zero { pages }),
        1 => (1_u64..600).prop_map(|pages| Stuff::File { pages }),
        1 => (1_u64..30).prop_map(|pages| Stuff::Swapped { pages }),
        2 => (1_u64..1500).prop_map(|pages| Stuff::Nothing { pages }),
    ]
}

/// Generated memory: words by page, flags and mapping counts by frame.
#[derive(Debug, Default)]
struct Memory {
    words: BTreeMap<u64, u64>,
    flags: BTreeMap<u64, u64>,
    counts: BTreeMap<u64, u64>,
    next_skewed: u64,
    /// Blocks, counted from address zero, with a table that maps nothing.
    empty_tables: BTreeSet<u64>,
    /// How many entries a seek may find before it stops.
    seek_bound: u64,
    seekable: bool,
    reads: Cell<usize>,
}

impl Memory {
    fn of(stuffs: &[Stuff], refaults: &BTreeSet<u64>, seek_bound: u64, seekable: bool) -> Self {
        let mut memory = Self { next_skewed: FRAMES << 4, seek_bound, seekable, ..Self::default() };
        memory.flags.insert(ZERO_PAGE, Flags::ZERO_PAGE);
        let mut page = FIRST;
        for stuff in stuffs {
            page = memory.lay(page, stuff);
            if page >= FIRST + BLOCKS * BLOCK {
                break;
            }
        }
        memory.words.retain(|&page, _| page < FIRST + BLOCKS * BLOCK);
        // Small pages that came to lie in holes.
        for page in refaults.iter().map(|offset| FIRST + offset) {
            if !memory.words.contains_key(&page) {
                memory.next_skewed += 3;
                let frame = memory.next_skewed;
                memory.map(page, frame, Flags::ANON | Flags::SWAPBACKED);
            }
        }
        memory
    }

    fn map(&mut self, page: u64, frame: u64, flags: u64) {
        self.words.insert(page, Word::PRESENT | Word::EXCLUSIVE | frame);
        self.flags.insert(frame, flags);
        *self.counts.entry(frame).or_default() += 1;
    }

    fn lay(&mut self, page: u64, stuff: &Stuff) -> u64 {
        match stuff {
            Stuff::Thp { order, lazy, kept, elsewhere } => {
                let size = 1 << order;
                let start = page.next_multiple_of(size);
                self.lay_thp(start, size, *lazy, kept, *elsewhere);
                start + size
            }
            Stuff::Small { pages, skew, lazy } => {
                let swapbacked = if *lazy { 0 } else { Flags::SWAPBACKED };
                for i in 0..*pages {
                    let frame = FRAMES + page + i - FIRST + (skew << 16);
                    self.map(page + i, frame, Flags::ANON | swapbacked);
                }
                page + pages
            }
            Stuff::Zero { pages } => self.fill(page, *pages, Word::PRESENT | ZERO_PAGE),
            Stuff::File { pages } => self.fill(page, *pages, Word::PRESENT | Word::FILE | 99),
            Stuff::Swapped { pages } => self.fill(page, *pages, Word::SWAPPED | 5),
            Stuff::Nothing { pages } => page + pages,
        }
    }

    fn fill(&mut self, page: u64, pages: u64, word: u64) -> u64 {
        (page..page + pages).for_each(|page| _ = self.words.insert(page, word));
        page + pages
    }

    fn lay_thp(&mut self, start: u64, size: u64, lazy: bool, kept: &BTreeSet<u64>, shared: bool) {
        let head = FRAMES + (start - FIRST);
        let common = Flags::ANON | Flags::THP | if lazy { 0 } else { Flags::SWAPBACKED };
        for i in 0..size {
            let place = if i == 0 { Flags::COMPOUND_HEAD } else { Flags::COMPOUND_TAIL };
            self.flags.insert(head + i, common | place);
            self.counts.insert(head + i, u64::from(shared));
        }
        for &i in kept {
            let exclusive = if shared { 0 } else { Word::EXCLUSIVE };
            self.words.insert(start + i, Word::PRESENT | exclusive | (head + i));
            *self.counts.entry(head + i).or_default() += 1;
        }
    }

    fn range() -> PageRange {
        PageRange::starting_at(PageIdx(FIRST), Pages(BLOCKS * BLOCK))
    }

    fn has_table(&self, block: u64) -> bool {
        let pages = block * BLOCK..(block + 1) * BLOCK;
        self.empty_tables.contains(&block) || self.words.range(pages).next().is_some()
    }

    fn anonymous_frame(&self, page: u64) -> Option<u64> {
        let word = Word(*self.words.get(&page)?);
        word.frame().filter(|_| word.is_present_anonymous()).map(|frame| frame.0)
    }
}

impl Frames for Memory {
    fn flags(&self, frame: Pfn) -> Result<Flags> {
        Ok(Flags(self.flags.get(&frame.0).copied().unwrap_or(0)))
    }

    fn map_count(&self, frame: Pfn) -> Result<u64> {
        Ok(self.counts.get(&frame.0).copied().unwrap_or(0))
    }
}

impl Words for Memory {
    fn read(&self, start: PageIdx, words: &mut [u64]) -> Result<usize> {
        self.reads.set(self.reads.get() + 1);
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.words.get(&(start.0 + i as u64)).copied().unwrap_or(0);
        }
        Ok(words.len())
    }

    fn seek(&self, range: PageRange, runs: &mut Vec<PageRange>) -> Result<Option<PageIdx>> {
        if !self.seekable {
            return Ok(None);
        }
        let mut entries = 0;
        for page in range.start.0..range.end.0 {
            if !self.has_table(page / BLOCK) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end.0 == page => run.end = PageIdx(page + 1),
                _ => runs.push(PageRange::starting_at(PageIdx(page), Pages(1))),
            }
            entries += 1;
            if entries == self.seek_bound {
                return Ok(Some(PageIdx(page + 1)));
            }
        }
        Ok(Some(range.end))
    }
}

/// What the scanner finds, in portions of `enough`.
fn scanned(memory: &Memory, enough: usize, sampling: Sampling) -> Findings {
    let settings = Settings {
        orders: vec![2, 4, 9],
        map_counts: MapCounts::EachPage,
        sampling,
        zero_page: Some(Pfn(ZERO_PAGE)),
        picture: Picture::Skip,
    };
    let mut walk = Walk::new(memory, &[Memory::range()]);
    let mut scan = Scan::new(&settings, Some(memory));
    let mut all = Findings::default();
    loop {
        let portion = scan.find(&mut walk, enough).expect("the model never fails");
        if portion.is_empty() {
            return all;
        }
        all.holes.extend(portion.holes);
        all.lazy.extend(portion.lazy);
    }
}

/// The holes, found the slow way: every huge page, page by page.
fn naive_holes(memory: &Memory) -> BTreeMap<u64, (u64, Sharing)> {
    let heads = memory.flags.iter().filter(|(_, flags)| Flags(**flags).has(Flags::COMPOUND_HEAD));
    let mut holes = BTreeMap::new();
    for (&head, _) in heads {
        let is_tail = |frame: &u64| {
            memory.flags.get(frame).is_some_and(|f| Flags(*f).has(Flags::COMPOUND_TAIL))
        };
        let size = 1 + (head + 1..).take_while(is_tail).count() as u64;
        let page_of = |frame: u64| frame - FRAMES + FIRST;
        let mapped: Vec<u64> = (head..head + size)
            .filter(|&f| memory.anonymous_frame(page_of(f)) == Some(f))
            .collect();
        let unmapped = size - mapped.len() as u64;
        if mapped.is_empty() || unmapped == 0 {
            continue;
        }
        let elsewhere = |&frame: &u64| memory.counts[&frame] > u64::from(mapped.contains(&frame));
        let shared = (head..head + size).any(|frame| elsewhere(&frame));
        let sharing = if shared { Sharing::Shared } else { Sharing::Exclusive };
        holes.insert(page_of(head), (unmapped, sharing));
    }
    holes
}

/// The lazily freed pages, found the slow way.
fn naive_lazy(memory: &Memory) -> BTreeSet<u64> {
    let lazy = |page: &u64| {
        let alone = memory.words.get(page).filter(|word| Word(**word).has(Word::EXCLUSIVE));
        let frame = alone.and_then(|_| memory.anonymous_frame(*page));
        frame.is_some_and(|f| {
            let flags = Flags(memory.flags[&f]);
            flags.has(Flags::ANON) && !flags.has(Flags::SWAPBACKED)
        })
    };
    memory.words.keys().copied().filter(lazy).collect()
}

fn pages_of(runs: &[LazyRun]) -> BTreeSet<u64> {
    runs.iter().flat_map(|run| run.range.start.0..run.range.end.0).collect()
}

fn as_map(holes: &[Hole]) -> BTreeMap<u64, (u64, Sharing)> {
    holes.iter().map(|hole| (hole.range().start.0, (hole.unmapped.0, hole.sharing))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_scanner_finds_what_the_naive_model_finds(
        stuffs in prop::collection::vec(stuff(), 1..24),
        refaults in prop::collection::btree_set(0..BLOCKS * BLOCK, 0..60),
        seek_bound in 1_u64..2000,
        seekable: bool,
        enough in 1_usize..20,
    ) {
        let memory = Memory::of(&stuffs, &refaults, seek_bound, seekable);
        let found = scanned(&memory, enough, Sampling::EXACT);
        prop_assert_eq!(found.holes.len(), as_map(&found.holes).len(), "each hole once");
        prop_assert_eq!(as_map(&found.holes), naive_holes(&memory));
        prop_assert_eq!(pages_of(&found.lazy), naive_lazy(&memory));
        let whole = |pair: &[LazyRun]| {
            pair[0].range.end < pair[1].range.start || pair[0].made_of != pair[1].made_of
        };
        prop_assert!(found.lazy.windows(2).all(whole), "{:?}", found.lazy);
    }

    #[test]
    fn sampling_never_finds_what_is_not_there_and_misses_no_run_as_long_as_its_stride(
        stuffs in prop::collection::vec(stuff(), 1..24),
        enough in 1_usize..20,
    ) {
        let memory = Memory::of(&stuffs, &BTreeSet::new(), 4096, true);
        let found = pages_of(&scanned(&memory, enough, Sampling::SPARSE).lazy);
        let truth = naive_lazy(&memory);
        prop_assert!(found.is_subset(&truth));
        let mut run: Vec<u64> = Vec::new();
        for page in truth.iter().copied().chain([u64::MAX]) {
            if run.last().is_some_and(|&last| last + 1 != page) {
                if run.len() as u64 >= Sampling::SPARSE.stride().0 {
                    prop_assert!(run.iter().all(|page| found.contains(page)), "{run:?}");
                }
                run.clear();
            }
            run.push(page);
        }
    }

    #[test]
    fn a_walk_yields_every_block_that_holds_something_or_has_a_table_once_in_order(
        pages in prop::collection::btree_set(0..BLOCKS * BLOCK, 0..200),
        tables in prop::collection::btree_set(0..BLOCKS, 0..4),
        seek_bound in 1_u64..3000,
        seekable: bool,
        cut in 1..BLOCKS,
    ) {
        let words = pages.iter().map(|page| (FIRST + page, Word::PRESENT | 1)).collect();
        let empty_tables = tables.iter().map(|block| FIRST / BLOCK + block).collect();
        let memory = Memory { words, empty_tables, seek_bound, seekable, ..Memory::default() };
        let middle = PageIdx(FIRST + cut * BLOCK);
        let (low, high) = (
            PageRange { end: middle, ..Memory::range() },
            PageRange { start: middle, ..Memory::range() },
        );
        let mut walk = Walk::new(&memory, &[low, high]);
        let mut seen = Vec::new();
        while let Some(block) = walk.next_block().expect("the model never fails") {
            seen.push((block.start().0 - FIRST) / BLOCK);
        }
        let mut expected: BTreeSet<u64> = pages.iter().map(|page| page / BLOCK).collect();
        if seekable {
            expected.extend(tables);
        }
        prop_assert_eq!(seen, Vec::from_iter(expected));
    }
}

#[test]
fn a_sparse_walk_reads_only_where_something_is() {
    let words = BTreeMap::from([(FIRST, Word::PRESENT | 1), (FIRST + 4095, Word::PRESENT | 2)]);
    let memory = Memory { words, seek_bound: 4096, seekable: true, ..Memory::default() };
    let mut walk = Walk::new(&memory, &[Memory::range()]);
    while walk.next_block().expect("the model never fails").is_some() {}
    assert!(memory.reads.get() <= 4, "{} reads for 2 blocks of {BLOCKS}", memory.reads.get());
}

#[test]
fn an_address_space_that_is_gone_ends_the_walk_with_that_error() {
    struct Gone;
    impl Words for Gone {
        fn read(&self, _: PageIdx, _: &mut [u64]) -> Result<usize> {
            Ok(0)
        }
        fn seek(&self, _: PageRange, _: &mut Vec<PageRange>) -> Result<Option<PageIdx>> {
            Ok(None)
        }
    }
    let error = Walk::new(&Gone, &[Memory::range()]).next_block().expect_err("gone");
    assert!(matches!(error, Error::AddressSpaceGone) && error.is_gone());
}
