//! What is known about the huge pages of which a part was given back.
//!
//! Pure bookkeeping. What it counts as waiting is never less than what is stuck: pages are noted
//! before they are discarded, and struck off after their huge page was split.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use recoup_sys::blockset::BlockSet;
use recoup_sys::{Bytes, PageIdx, PageRange, Pages};

/// How long it is believed that a block is what it was. khugepaged may make a huge page of base
/// pages; its own pause between two scans is ten seconds.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// What is known about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
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
    /// Discards that were noted and are not over.
    under_way: u32,
    /// Whoever ends the last of them is to split the block.
    due: Due,
}

/// Whether a block has to be split as soon as that is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Now.
    Now,
    /// When too much waits.
    Sometime,
}

impl Entry {
    fn is_fresh(&self, now: Duration) -> bool {
        // What is about to change is looked at afterwards.
        self.under_way > 0 || now.saturating_sub(self.seen) < BELIEVED_FOR
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
    /// Holes of those that are being split.
    splitting: Pages,
}

impl Book {
    /// Pages that may be stuck.
    pub(super) fn waiting(&self) -> Pages {
        self.waiting
    }

    /// Pages that may be stuck and that nobody is about to split.
    pub(super) fn waiting_unoffered(&self) -> Pages {
        self.waiting.saturating_sub(self.splitting)
    }

    /// A split that was begun does not take place: the block keeps its holes.
    pub(super) fn keep_holes(&mut self, block: PageIdx, holes: &BlockSet) {
        let Some(entry) = self.entries.get(&block) else { return };
        let seen = entry.seen;
        self.put(block, Block::Holed(*holes), seen);
    }

    /// Takes note of how a block was found to be mapped at the time `now`. Tells whether it can be
    /// relied on: base pages look like a huge page that is mapped by pages.
    pub(super) fn see(&mut self, block: PageIdx, mapping: Mapped, now: Duration) -> Seen {
        match (mapping, self.entries.get_mut(&block)) {
            // Another thread looked at the same time, and may have noted holes since.
            (_, Some(entry)) if entry.is_fresh(now) => Seen::Known,
            // What was known before has been replaced by a new huge page; or it may be one.
            (Mapped::Whole, _) | (Mapped::Unknown, None) => {
                self.put(block, Block::Holed(BlockSet::default()), now);
                Seen::Known
            }
            (Mapped::Unknown, Some(entry)) => {
                entry.seen = now;
                Seen::Known
            }
            (Mapped::ByPages, Some(entry)) if entry.block != Block::Split => {
                entry.seen = now;
                Seen::Known
            }
            (Mapped::ByPages, _) => {
                self.put(block, Block::Split, now);
                Seen::Unsure
            }
        }
    }

    /// Pages of one block are about to be given back: [`Book::gave_back`] has to follow. Nothing is
    /// noted, and `Unsure` returned, if the block has to be looked at first.
    pub(super) fn note(&mut self, pages: PageRange, now: Duration) -> Seen {
        let block = pages.start.block_start();
        let known = self.entries.get_mut(&block).filter(|entry| entry.is_fresh(now));
        let Some(entry) = known else { return Seen::Unsure };
        entry.under_way += 1;
        if let Block::Holed(holes) = &mut entry.block {
            let before = holes.count();
            holes.insert(pages);
            let after = holes.count();
            if after > before {
                self.by_holes.remove(&(before, block));
                self.by_holes.insert((after, block));
                self.waiting += Pages(u64::from(after - before));
            }
        }
        Seen::Known
    }

    /// A discard that was noted is over, and when its holes are due. Tells whether the block has to be
    /// split now: by whoever is the last that gives something of it back. A huge page of which nothing
    /// is left is forgotten.
    pub(super) fn gave_back(&mut self, block: PageIdx, due: Due) -> Due {
        let Some(entry) = self.entries.get_mut(&block) else { return Due::Sometime };
        if due == Due::Now {
            entry.due = Due::Now;
        }
        entry.under_way = entry.under_way.saturating_sub(1);
        if entry.under_way > 0 {
            return Due::Sometime;
        }
        let due = std::mem::replace(&mut entry.due, Due::Sometime);
        if matches!(entry.block, Block::Holed(holes) if holes.is_full()) {
            self.remove(block);
            return Due::Sometime;
        }
        due
    }

    /// The block with the most holes of which nothing is being given back at the moment.
    pub(super) fn fullest(&self) -> Option<PageIdx> {
        let quiet = |block: &PageIdx| self.entries.get(block).is_some_and(|e| e.under_way == 0);
        self.by_holes.iter().rev().map(|&(_, block)| block).find(quiet)
    }

    /// Somebody is about to split the block: hands its holes to whoever does, who must call
    /// [`Book::end_split`]. Nothing if it is not holed, or something of it is being given back.
    pub(super) fn begin_split(&mut self, block: PageIdx) -> Option<BlockSet> {
        self.entries.get(&block).filter(|entry| entry.under_way == 0)?;
        self.hand_out(block)
    }

    /// The same for the block with the most holes.
    pub(super) fn begin_fullest(&mut self) -> Option<(PageIdx, BlockSet)> {
        let block = self.fullest()?;
        Some((block, self.begin_split(block)?))
    }

    /// The same for a block of which something is about to be given back, if more than `bound` waits
    /// with that: split before, it leaves nothing behind. Not if that is all there is left of it.
    pub(super) fn begin_early_split(&mut self, block: PageIdx, bound: Bytes) -> Option<BlockSet> {
        let entry = self.entries.get(&block)?;
        let last = matches!(entry.block, Block::Holed(holes) if holes.is_full());
        if self.waiting.bytes() <= bound || (last && entry.under_way == 1) {
            return None;
        }
        self.hand_out(block)
    }

    fn hand_out(&mut self, block: PageIdx) -> Option<BlockSet> {
        let entry = self.entries.get_mut(&block)?;
        let Block::Holed(holes) = entry.block else { return None };
        entry.block = Block::Split;
        self.by_holes.remove(&(holes.count(), block));
        self.splitting += pages_in(&holes);
        Some(holes)
    }

    /// The split of a block with these holes is over.
    pub(super) fn end_split(&mut self, holes: &BlockSet) {
        self.splitting = self.splitting.saturating_sub(pages_in(holes));
        self.waiting = self.waiting.saturating_sub(pages_in(holes));
    }

    /// Everything that is known about the blocks in a range is no longer true.
    pub(super) fn forget(&mut self, blocks: PageRange) {
        if blocks.is_empty() {
            return;
        }
        let gone: Vec<PageIdx> =
            self.entries.range(blocks.start..blocks.end).map(|(&block, _)| block).collect();
        gone.into_iter().for_each(|block| self.remove(block));
    }

    fn remove(&mut self, block: PageIdx) {
        let removed = self.entries.remove(&block);
        if let Some(Entry { block: Block::Holed(holes), .. }) = removed {
            self.by_holes.remove(&(holes.count(), block));
            self.waiting = self.waiting.saturating_sub(pages_in(&holes));
        }
    }

    /// A block that is new or was looked at anew.
    fn put(&mut self, block: PageIdx, state: Block, seen: Duration) {
        self.remove(block);
        if let Block::Holed(holes) = state {
            self.by_holes.insert((holes.count(), block));
            self.waiting += pages_in(&holes);
        }
        self.entries.insert(block, Entry { block: state, seen, under_way: 0, due: Due::Sometime });
    }
}

fn pages_in(holes: &BlockSet) -> Pages {
    Pages(u64::from(holes.count()))
}

/// Whether it is known what a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The book has it.
    Known,
    /// It is base pages, or a huge page that is mapped by pages.
    Unsure,
}

/// How a block is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// By one entry of a PMD table: a whole huge page.
    Whole,
    /// Page by page.
    ByPages,
    /// The kernel doesn't tell.
    Unknown,
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

    fn give_back(book: &mut Book, range: PageRange) {
        assert_eq!(book.note(range, NOW), Seen::Known);
        book.gave_back(range.start.block_start(), Due::Sometime);
    }

    fn holed(parts: &[(u64, u64)]) -> Book {
        let mut book = Book::default();
        book.see(BLOCK, Mapped::Whole, NOW);
        parts.iter().for_each(|&(first, count)| give_back(&mut book, pages(first, count)));
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
        assert_eq!((book.waiting(), book.fullest()), (Pages(100), None));
        book.end_split(&holes);
        assert_eq!(book.waiting(), Pages(0));
        assert_eq!(book.begin_split(BLOCK), None);
    }

    #[test]
    fn a_split_that_does_not_take_place_leaves_everything_as_it_was() {
        let mut book = holed(&[(0, 100)]);
        let holes = book.begin_split(BLOCK).expect("a holed block");
        assert_eq!(book.waiting_unoffered(), Pages(0));
        book.end_split(&holes);
        book.keep_holes(BLOCK, &holes);
        assert_eq!((book.waiting(), book.waiting_unoffered()), (Pages(100), Pages(100)));
        assert_eq!(book.fullest(), Some(BLOCK));
    }

    #[test]
    fn what_is_being_given_back_is_not_split_and_not_forgotten() {
        let mut book = holed(&[(0, 100)]);
        book.note(pages(100, 400), NOW);
        assert_eq!((book.fullest(), book.begin_split(BLOCK)), (None, None));
        // The last part is done before the first one.
        give_back(&mut book, pages(500, 12));
        assert_eq!(book.waiting(), Pages(512));
        book.gave_back(BLOCK, Due::Now);
        assert_eq!(book.waiting(), Pages(0), "all is gone");
        assert_eq!(book.note(pages(0, 1), NOW), Seen::Unsure);
    }

    #[test]
    fn what_would_be_too_much_is_split_before_it_is_given_back() {
        let mut book = holed(&[(0, 100)]);
        book.note(pages(100, 20), NOW);
        assert_eq!(book.begin_early_split(BLOCK, Pages(120).bytes()), None);
        let holes = book.begin_early_split(BLOCK, Pages(119).bytes()).expect("a holed block");
        assert_eq!((book.waiting(), holes.count()), (Pages(120), 120));
        book.end_split(&holes);
        assert_eq!(book.waiting(), Pages(0));
        // Base pages leave nothing behind.
        book.note(pages(200, 20), NOW);
        assert_eq!(
            (book.gave_back(BLOCK, Due::Sometime), book.waiting()),
            (Due::Sometime, Pages(0))
        );
        assert_eq!(book.begin_early_split(BLOCK, Bytes(0)), None);
    }

    #[test]
    fn what_is_about_to_be_gone_altogether_is_not_split_before() {
        let mut book = holed(&[(0, 256)]);
        book.note(pages(256, 256), NOW);
        assert_eq!(book.begin_early_split(BLOCK, Bytes(0)), None);
        // Who comes second cannot know when the first is done.
        book.note(pages(300, 1), NOW);
        assert!(book.begin_early_split(BLOCK, Bytes(0)).is_some());
    }

    #[test]
    fn the_last_one_splits_what_another_one_wanted_split_at_once() {
        let mut book = holed(&[]);
        book.note(pages(0, 1), NOW);
        book.note(pages(1, 1), NOW);
        assert_eq!(book.gave_back(BLOCK, Due::Now), Due::Sometime);
        assert_eq!(book.gave_back(BLOCK, Due::Sometime), Due::Now);
    }

    #[test]
    fn base_pages_leave_nothing_behind() {
        let mut book = Book::default();
        book.see(BLOCK, Mapped::ByPages, NOW);
        give_back(&mut book, pages(0, 9));
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
    fn where_the_kernel_does_not_tell_everything_may_be_a_huge_page() {
        let mut book = Book::default();
        assert_eq!(book.see(BLOCK, Mapped::Unknown, NOW), Seen::Known);
        give_back(&mut book, pages(0, 9));
        assert_eq!(book.see(BLOCK, Mapped::Unknown, NOW + BELIEVED_FOR), Seen::Known);
        assert_eq!(book.waiting(), Pages(9));
    }

    #[test]
    fn holes_stay_noted_however_old_they_are() {
        let mut book = holed(&[(0, 256)]);
        assert_eq!(book.note(pages(0, 1), NOW + BELIEVED_FOR), Seen::Unsure);
        assert_eq!(book.see(BLOCK, Mapped::ByPages, NOW + BELIEVED_FOR * 9), Seen::Known);
        assert_eq!(book.waiting(), Pages(256));
    }

    #[test]
    fn a_new_huge_page_has_none_of_the_old_holes() {
        let mut book = holed(&[(0, 256)]);
        assert_eq!(book.see(BLOCK, Mapped::Whole, NOW), Seen::Known);
        assert_eq!(book.waiting(), Pages(256), "another thread saw the same one");
        book.see(BLOCK, Mapped::Whole, NOW + BELIEVED_FOR);
        assert_eq!(book.waiting(), Pages(0));
    }

    #[test]
    fn the_fullest_comes_first() {
        let mut book = holed(&[(0, 10)]);
        let other = BLOCK + Pages(512);
        book.see(other, Mapped::Whole, NOW);
        give_back(&mut book, PageRange::starting_at(other, Pages(20)));
        assert_eq!(book.fullest(), Some(other));
        book.forget(PageRange { start: other, end: other + Pages(512) });
        assert_eq!((book.fullest(), book.waiting()), (Some(BLOCK), Pages(10)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        See(u64, Mapped),
        GiveBack(u64, u64, u64),
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
                .prop_map(|(block, first, count)| Step::GiveBack(block, first, count)),
            1 => Just(Step::SplitFullest),
            1 => block.prop_map(Step::Forget),
            1 => Just(Step::Later),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// The set of pages that each huge page lost, and when each block was looked at.
    #[derive(Default)]
    struct Naive {
        lost: BTreeMap<u64, BTreeSet<u64>>,
        seen: BTreeMap<u64, Duration>,
    }

    impl Naive {
        fn knows(&self, block: u64, now: Duration) -> bool {
            self.seen.get(&block).is_some_and(|&seen| now - seen < BELIEVED_FOR)
        }

        fn see(&mut self, block: u64, mapped: Mapped, now: Duration) {
            if !self.knows(block, now) {
                self.seen.insert(block, now);
                if mapped == Mapped::Whole {
                    self.lost.insert(block, BTreeSet::new());
                }
            }
        }

        fn give_back(&mut self, block: u64, pages: std::ops::Range<u64>) {
            let Some(lost) = self.lost.get_mut(&block) else { return };
            lost.extend(pages);
            if lost.len() == 512 {
                self.lost.remove(&block);
                self.seen.remove(&block);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_waits_is_what_huge_pages_lost(steps in steps()) {
            let (mut book, mut naive, mut now) = (Book::default(), Naive::default(), NOW);
            let at = |block: u64| PageIdx(block * 512);
            for step in steps {
                match step {
                    Step::See(block, mapped) => {
                        naive.see(block, mapped, now);
                        book.see(at(block), mapped, now);
                    }
                    Step::GiveBack(block, first, count) => {
                        let end = (first + count).min(512);
                        let range = PageRange::starting_at(at(block) + Pages(first), Pages(end - first));
                        let known = naive.knows(block, now);
                        prop_assert_eq!(book.note(range, now) == Seen::Known, known);
                        if known {
                            book.gave_back(at(block), Due::Sometime);
                            naive.give_back(block, first..end);
                        }
                    }
                    Step::SplitFullest => {
                        let most = naive.lost.values().map(BTreeSet::len).max();
                        let fullest = book.fullest();
                        prop_assert_eq!(fullest.is_some(), most.is_some());
                        if let Some(block) = fullest {
                            let pages = naive.lost.remove(&(block.0 / 512)).expect("a huge page");
                            prop_assert_eq!(Some(pages.len()), most);
                            let holes = book.begin_split(block).expect("a holed block");
                            prop_assert!((0..512).all(|i| holes.has(i) == pages.contains(&(i as u64))));
                            book.end_split(&holes);
                        }
                    }
                    Step::Forget(block) => {
                        book.forget(PageRange { start: at(block), end: at(block + 1) });
                        naive.lost.remove(&block);
                        naive.seen.remove(&block);
                    }
                    Step::Later => now += BELIEVED_FOR,
                }
                let waiting: usize = naive.lost.values().map(BTreeSet::len).sum();
                prop_assert_eq!(book.waiting(), Pages(waiting as u64));
            }
        }
    }
}
