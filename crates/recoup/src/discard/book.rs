//! What is known about the huge pages of which a part was given back.
//!
//! Pure bookkeeping. What it counts as waiting is never less than what is stuck: pages are noted
//! before they are discarded, and struck off after their huge page was split.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use recoup_sys::blockset::BlockSet;
use recoup_sys::{PageIdx, PageRange, Pages};

/// How long it is believed that a block is what it was. khugepaged may make a huge page of base
/// pages; its own pause between two scans is ten seconds.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// What is known about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// One huge page, of which these pages were given back since it was whole.
    Holed(BlockSet),
    /// Base pages: giving back some of them leaves nothing behind.
    Split,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: Block,
    /// When that was last looked at, on the caller's clock.
    seen: Duration,
}

impl Entry {
    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.seen) < BELIEVED_FOR
    }
}

/// All blocks of which something is known.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<PageIdx, Entry>,
    /// Holed blocks by the number of their holes.
    by_holes: BTreeSet<(u32, PageIdx)>,
    /// Holes of all holed blocks, and of those that are being split.
    waiting: Pages,
}

impl Book {
    /// Pages that may be stuck.
    pub(super) fn waiting(&self) -> Pages {
        self.waiting
    }

    /// What is known about a block at the time `now`; nothing if that is too long ago.
    fn look_up(&self, block: PageIdx, now: Duration) -> Option<Block> {
        self.entries.get(&block).filter(|entry| entry.is_fresh(now)).map(|entry| entry.block)
    }

    /// Takes note of how a block was found to be mapped at the time `now`. Tells whether it can be
    /// relied on: base pages look like a huge page that is mapped by pages.
    pub(super) fn see(&mut self, block: PageIdx, mapping: Mapped, now: Duration) -> Seen {
        if self.look_up(block, now).is_some() {
            // Another thread looked at the same time, and may have noted holes since.
            return Seen::Known;
        }
        match (mapping, self.entries.get_mut(&block)) {
            // What was known before has been replaced by a new huge page.
            (Mapped::Whole, _) => self.put(block, Block::Holed(BlockSet::default()), now),
            (Mapped::ByPages, Some(entry)) if entry.block != Block::Split => entry.seen = now,
            (Mapped::ByPages, _) => {
                self.put(block, Block::Split, now);
                return Seen::Unsure;
            }
        }
        Seen::Known
    }

    /// Pages of one block are about to be given back. Tells whether all of its pages were by now;
    /// nothing if the block has to be looked at first.
    pub(super) fn note(&mut self, pages: PageRange, now: Duration) -> Option<Progress> {
        let block = pages.start.block_start();
        let entry = self.entries.get_mut(&block).filter(|entry| entry.is_fresh(now))?;
        let Block::Holed(holes) = &mut entry.block else { return Some(Progress::Part) };
        let before = holes.count();
        holes.insert(pages);
        let (after, full) = (holes.count(), holes.is_full());
        if after > before {
            self.by_holes.remove(&(before, block));
            self.by_holes.insert((after, block));
            self.waiting += Pages(u64::from(after - before));
        }
        Some(if full { Progress::All } else { Progress::Part })
    }

    /// The block with the most holes, those `spared` left out.
    pub(super) fn fullest(&self, spared: &[PageIdx]) -> Option<PageIdx> {
        self.by_holes.iter().rev().map(|&(_, block)| block).find(|block| !spared.contains(block))
    }

    /// Somebody is about to split the block: hands its holes to whoever does, who must call
    /// [`Book::end_split`]. Nothing if it is not holed.
    pub(super) fn begin_split(&mut self, block: PageIdx) -> Option<BlockSet> {
        let entry = self.entries.get_mut(&block)?;
        let Block::Holed(holes) = entry.block else { return None };
        entry.block = Block::Split;
        self.by_holes.remove(&(holes.count(), block));
        Some(holes)
    }

    /// The split of a block with these holes is over.
    pub(super) fn end_split(&mut self, holes: &BlockSet) {
        self.waiting = self.waiting.saturating_sub(pages_in(holes));
    }

    /// Everything that is known about the blocks in a range is no longer true.
    pub(super) fn forget(&mut self, blocks: PageRange) {
        if blocks.is_empty() {
            return;
        }
        let gone: Vec<PageIdx> =
            self.entries.range(blocks.start..blocks.end).map(|(&block, _)| block).collect();
        for block in gone {
            if let Some(holes) = self.begin_split(block) {
                self.end_split(&holes);
            }
            self.entries.remove(&block);
        }
    }

    fn put(&mut self, block: PageIdx, state: Block, seen: Duration) {
        if let Some(before) = self.begin_split(block) {
            self.end_split(&before);
        }
        if let Block::Holed(holes) = state {
            self.by_holes.insert((holes.count(), block));
            self.waiting += pages_in(&holes);
        }
        self.entries.insert(block, Entry { block: state, seen });
    }
}

fn pages_in(holes: &BlockSet) -> Pages {
    Pages(u64::from(holes.count()))
}

/// Whether a look at a block told what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The book knows it.
    Known,
    /// It is base pages, or a huge page that is mapped by pages, which one more look cannot tell.
    Unsure,
}

/// How a block is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// By one entry of a PMD table: a whole huge page.
    Whole,
    /// Page by page.
    ByPages,
}

/// How much of a block was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Some pages.
    Part,
    /// All pages of a huge page.
    All,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: PageIdx = PageIdx(512 * 7);
    const NOW: Duration = Duration::from_secs(100);

    fn pages(first: u64, count: u64) -> PageRange {
        PageRange::starting_at(BLOCK + Pages(first), Pages(count))
    }

    fn holed(parts: &[(u64, u64)]) -> Book {
        let mut book = Book::default();
        book.see(BLOCK, Mapped::Whole, NOW);
        for &(first, count) in parts {
            assert!(book.note(pages(first, count), NOW).is_some());
        }
        book
    }

    #[test]
    fn a_page_given_back_twice_waits_once() {
        assert_eq!(holed(&[(3, 5), (4, 6)]).waiting(), Pages(7));
    }

    #[test]
    fn a_split_counts_until_it_is_over() {
        let mut book = holed(&[(0, 100)]);
        let holes = book.begin_split(BLOCK).expect("a holed block");
        assert_eq!((book.waiting(), book.fullest(&[])), (Pages(100), None));
        assert_eq!(book.look_up(BLOCK, NOW), Some(Block::Split));
        book.end_split(&holes);
        assert_eq!(book.waiting(), Pages(0));
        assert_eq!(book.begin_split(BLOCK), None);
    }

    #[test]
    fn base_pages_leave_nothing_behind() {
        let mut book = Book::default();
        book.see(BLOCK, Mapped::ByPages, NOW);
        assert_eq!(book.note(pages(0, 9), NOW), Some(Progress::Part));
        assert_eq!(book.waiting(), Pages(0));
    }

    #[test]
    fn base_pages_are_looked_at_again_after_a_while() {
        let mut book = Book::default();
        assert_eq!(book.see(BLOCK, Mapped::ByPages, NOW), Seen::Unsure);
        assert_eq!(book.see(BLOCK, Mapped::ByPages, NOW), Seen::Known);
        assert_eq!(book.see(BLOCK, Mapped::ByPages, NOW + BELIEVED_FOR), Seen::Unsure);
    }

    #[test]
    fn holes_stay_noted_however_old_they_are() {
        let mut book = holed(&[(0, 256)]);
        assert_eq!(book.see(BLOCK, Mapped::ByPages, NOW + BELIEVED_FOR * 9), Seen::Known);
        assert_eq!(book.waiting(), Pages(256));
    }

    #[test]
    fn the_last_page_is_noticed() {
        let mut book = holed(&[(0, 256)]);
        assert_eq!(book.note(pages(257, 255), NOW), Some(Progress::Part));
        assert_eq!(book.note(pages(256, 1), NOW), Some(Progress::All));
    }

    #[test]
    fn a_new_huge_page_has_none_of_the_old_holes() {
        let mut book = holed(&[(0, 256)]);
        assert_eq!(book.see(BLOCK, Mapped::Whole, NOW), Seen::Known);
        assert_eq!(book.waiting(), Pages(256), "another thread saw the same one");
        book.see(BLOCK, Mapped::Whole, NOW + BELIEVED_FOR);
        assert_eq!(book.waiting(), Pages(0));
        assert_eq!(book.note(pages(0, 1), NOW + BELIEVED_FOR), Some(Progress::Part));
    }

    #[test]
    fn what_is_known_grows_old() {
        let book = holed(&[(0, 1)]);
        assert!(book.look_up(BLOCK, NOW + BELIEVED_FOR / 2).is_some());
        assert_eq!(book.look_up(BLOCK, NOW + BELIEVED_FOR), None);
        assert_eq!(holed(&[]).note(pages(0, 1), NOW + BELIEVED_FOR), None);
        assert_eq!(book.waiting(), Pages(1), "though it still counts");
    }

    #[test]
    fn the_fullest_comes_first_unless_spared() {
        let mut book = holed(&[(0, 10)]);
        let other = BLOCK + Pages(512);
        book.see(other, Mapped::Whole, NOW);
        book.note(PageRange::starting_at(other, Pages(20)), NOW).expect("known");
        assert_eq!(book.fullest(&[]), Some(other));
        assert_eq!(book.fullest(&[other]), Some(BLOCK));
        book.forget(PageRange { start: other, end: other + Pages(512) });
        assert_eq!((book.fullest(&[BLOCK]), book.waiting()), (None, Pages(10)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        See(u64, Mapped),
        Note(u64, u64, u64),
        SplitFullest,
        Forget(u64),
        Later,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let block = 0_u64..4;
        let mapped = prop_oneof![Just(Mapped::Whole), Just(Mapped::ByPages)];
        let step = prop_oneof![
            2 => (block.clone(), mapped).prop_map(|(block, mapped)| Step::See(block, mapped)),
            6 => (block.clone(), 0_u64..512, 1_u64..512)
                .prop_map(|(block, first, count)| Step::Note(block, first, count)),
            1 => Just(Step::SplitFullest),
            1 => block.prop_map(Step::Forget),
            1 => Just(Step::Later),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Against the set of pages that each huge page lost.
        #[test]
        fn what_waits_is_what_huge_pages_lost(steps in steps()) {
            let (mut book, mut now) = (Book::default(), NOW);
            let mut lost: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            let mut fresh: BTreeMap<u64, Duration> = BTreeMap::new();
            let at = |block: u64| PageIdx(block * 512);
            for step in steps {
                match step {
                    Step::See(block, mapped) => {
                        let known = fresh.get(&block).is_some_and(|&seen| now - seen < BELIEVED_FOR);
                        if !known {
                            fresh.insert(block, now);
                            if mapped == Mapped::Whole {
                                lost.insert(block, BTreeSet::new());
                            }
                        }
                        book.see(at(block), mapped, now);
                    }
                    Step::Note(block, first, count) => {
                        let end = (first + count).min(512);
                        let range = PageRange::starting_at(at(block) + Pages(first), Pages(end - first));
                        let known = fresh.get(&block).is_some_and(|&seen| now - seen < BELIEVED_FOR);
                        let noted = book.note(range, now);
                        prop_assert_eq!(noted.is_some(), known);
                        if let (true, Some(pages)) = (known, lost.get_mut(&block)) {
                            pages.extend(first..end);
                            let all = pages.len() == 512;
                            prop_assert_eq!(noted == Some(Progress::All), all);
                        }
                    }
                    Step::SplitFullest => {
                        let most = lost.values().map(BTreeSet::len).max();
                        let fullest = book.fullest(&[]);
                        prop_assert_eq!(fullest.is_some(), most.is_some());
                        if let Some(block) = fullest {
                            let pages = lost.remove(&(block.0 / 512)).expect("a huge page");
                            prop_assert_eq!(Some(pages.len()), most);
                            let holes = book.begin_split(block).expect("a holed block");
                            prop_assert!((0..512).all(|i| holes.has(i) == pages.contains(&(i as u64))));
                            book.end_split(&holes);
                        }
                    }
                    Step::Forget(block) => {
                        book.forget(PageRange { start: at(block), end: at(block + 1) });
                        lost.remove(&block);
                        fresh.remove(&block);
                    }
                    Step::Later => now += BELIEVED_FOR,
                }
                let waiting: usize = lost.values().map(BTreeSet::len).sum();
                prop_assert_eq!(book.waiting(), Pages(waiting as u64));
            }
        }
    }
}
