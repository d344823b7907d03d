//! The kernel's side of an audit: which pages there are, and whose.

use recoup_sys::kpage::{Flags, Frames, KernelFrames};
use recoup_sys::maps::Mapping;
use recoup_sys::pagemap::{Pagemap, Query, Run, Word};
use recoup_sys::{PageIdx, PageRange, Pages, Pfn, Process};

use super::{Audit, Violation};

/// Where the kernel says it.
#[derive(Debug)]
pub(super) struct Witness<F = KernelFrames> {
    pagemap: Pagemap,
    /// What root may know: how often a frame is mapped, and before Linux 6.7 which is the page of zeroes.
    frames: Option<F>,
}

impl Witness {
    pub(super) fn new() -> recoup_sys::Result<Self> {
        Ok(Self { pagemap: Pagemap::of_self()?, frames: KernelFrames::open().ok() })
    }
}

impl<F: Frames> Witness<F> {
    /// What pagemap says of pages.
    pub(super) fn read(&self, pages: PageRange, words: &mut [u64]) -> recoup_sys::Result<()> {
        self.pagemap.read(pages.start, words).map(drop)
    }

    /// Pages are nobody else's. The first of a chunk that is stands for all.
    pub(super) fn check_words(
        &self,
        pages: PageRange,
        words: &[u64],
        audit: &mut Audit,
    ) -> recoup_sys::Result<()> {
        let mut zeroes_until = pages.start;
        let mut next_frame = None;
        for (word, page) in numbered(pages, words).filter(is_present) {
            // Where frames are hidden there are no rows of them, either.
            let begins_row = word.frame() != next_frame;
            next_frame = word.frame().map(|frame| Pfn(frame.0 + 1));
            if page < zeroes_until {
                audit.present.0 -= 1;
                continue;
            }
            let is_shared = if !word.has(Word::EXCLUSIVE) {
                match self.zeroes(word, PageRange { start: page, end: pages.end }) {
                    Some(end) => {
                        // Of pages that came since they were counted none is taken off.
                        zeroes_until = end;
                        audit.present.0 -= 1;
                        false
                    }
                    // The first write may have replaced the page of zeroes meanwhile.
                    None => self.is_shared(page)?,
                }
            } else {
                begins_row && self.is_mapped_again(word, page)?
            };
            if is_shared {
                audit.violations.push(Violation::Shared(page));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Until where pages, of which this is the first one's word, are the kernel's page of zeroes: they
    /// were read, but never written. Where it can't be told, all are.
    fn zeroes(&self, word: Word, pages: PageRange) -> Option<PageIdx> {
        let mut run = [Run::default()];
        if let Ok(found) = self.pagemap.find(Query::Zero, pages, &mut run) {
            let first = found.runs.first().map(|run| run.range());
            return first.filter(|zeroes| zeroes.start == pages.start).map(|zeroes| zeroes.end);
        }
        let frame = self.frames.as_ref().zip(word.frame());
        let flags = frame.and_then(|(frames, frame)| frames.flags(frame).ok());
        // In one huge piece it counts as a page of a file.
        let can_be = flags.map_or(!word.has(Word::FILE), |flags| flags.has(Flags::ZERO_PAGE));
        can_be.then_some(pages.start + Pages(1))
    }

    fn is_shared(&self, page: PageIdx) -> recoup_sys::Result<bool> {
        let word = self.pagemap.word(page)?.unwrap_or_default();
        Ok(word.has(Word::PRESENT) && !word.has(Word::EXCLUSIVE))
    }

    /// Whether the frame of a page is mapped somewhere else too, where that may be known. Also an average
    /// over a huge page is more than one only then.
    fn is_mapped_again(&self, word: Word, page: PageIdx) -> recoup_sys::Result<bool> {
        let Some((frames, frame)) = self.frames.as_ref().zip(word.frame()) else {
            return Ok(false);
        };
        let is_counted = frames.map_count(frame).is_ok_and(|count| count > 1);
        // The page may have moved meanwhile, and its frame be somebody's who shares it.
        Ok(is_counted && self.pagemap.word(page)?.and_then(Word::frame) == Some(frame))
    }
}

/// A gigabyte without struct pages, of which pagemap shows nothing, is mapped once in this process.
pub(super) fn check_places(gigabyte: PageRange, audit: &mut Audit) -> recoup_sys::Result<()> {
    let mappings = Process::own()?.mappings()?;
    audit.violations.extend(second_place(&mappings, gigabyte).map(Violation::Shared));
    Ok(())
}

/// The first of these pages whose part of a file is behind other addresses, too.
fn second_place(mappings: &[Mapping], pages: PageRange) -> Option<PageIdx> {
    let is_own = |mapping: &&Mapping| mapping.range.contains(pages.start) && mapping.inode != 0;
    let own = mappings.iter().find(is_own)?;
    // From the file's pages to these.
    let first = own.file_range().start.0 + (pages.start.0 - own.range.start.0);
    let shown = PageRange::starting_at(PageIdx(first), pages.length());
    let of_file = |mapping: &&Mapping| (mapping.device, mapping.inode) == (own.device, own.inode);
    let again = mappings.iter().filter(of_file).filter_map(|mapping| {
        let both = mapping.file_range().intersection(shown);
        let at = |start: PageIdx, from: PageIdx| {
            (!both.is_empty()).then(|| start.0 + (both.start.0 - from.0))
        };
        let (here, there) =
            (at(pages.start, shown.start)?, at(mapping.range.start, mapping.file_range().start)?);
        (here != there).then_some(PageIdx(here))
    });
    again.min()
}

/// How many pages are in memory.
pub(super) fn present(pages: PageRange, words: &[u64]) -> Pages {
    Pages(numbered(pages, words).filter(is_present).count() as u64)
}

/// There are no pages.
pub(super) fn check_absence(pages: PageRange, words: &[u64], audit: &mut Audit) {
    let exists = |(word, _): &(Word, PageIdx)| word.has(Word::PRESENT | Word::SWAPPED);
    let stray = numbered(pages, words).find(exists);
    audit.violations.extend(stray.map(|(_, page)| Violation::Stray(page)));
}

fn is_present((word, _): &(Word, PageIdx)) -> bool {
    word.has(Word::PRESENT)
}

fn numbered(pages: PageRange, words: &[u64]) -> impl Iterator<Item = (Word, PageIdx)> {
    words.iter().zip(pages.start.0..).map(|(&word, page)| (Word(word), PageIdx(page)))
}

// Maps memory as miri cannot.
#[cfg(not(miri))]
#[cfg(test)]
#[expect(unsafe_code, reason = "a file is mapped twice")]
mod tests {
    use std::os::fd::AsFd;

    use recoup_sys::addresses::{Addresses, Forking, Memory};
    use recoup_sys::region::Region;
    use recoup_sys::{Bytes, own};
    use recoup_testkit::{kernel, require};

    use super::*;

    /// Counts as a kernel gives them that maps some frames once more.
    struct Counts(fn(Pfn) -> u64);

    impl Frames for Counts {
        fn flags(&self, _: Pfn) -> recoup_sys::Result<Flags> {
            Ok(Flags(0))
        }

        fn map_count(&self, frame: Pfn) -> recoup_sys::Result<u64> {
            Ok((self.0)(frame))
        }
    }

    /// What is found in three pages of this process's own, when their frames are so often mapped.
    fn found(counts: fn(Pfn) -> u64) -> (Vec<Violation>, Option<PageIdx>) {
        let mut region = Region::new(Bytes(2 << 20)).unwrap();
        region.touch(Pages(0), Pages(3));
        let pages = PageRange::starting_at(region.pages().start, Pages(3));
        let witness =
            Witness { pagemap: Pagemap::of_self().unwrap(), frames: Some(Counts(counts)) };
        let (mut words, mut audit) = ([0; 3], Audit::default());
        witness.read(pages, &mut words).unwrap();
        witness.check_words(pages, &words, &mut audit).unwrap();
        let shown = Word(words[0]).frame().map(|_| pages.start);
        (audit.violations, shown)
    }

    /// As pagemap does on kernels that only count by process (`CONFIG_NO_PAGE_MAPCOUNT`).
    #[test]
    fn what_pagemap_calls_exclusive_is_counted_where_frames_are_shown() {
        assert_eq!(found(|_| 1).0, []);
        let (violations, shown) = found(|_| 2);
        assert_eq!(violations, shown.map(Violation::Shared).into_iter().collect::<Vec<_>>());
    }

    /// The kernel's own counts, with pagemap's word as such a kernel has it.
    #[test]
    fn a_page_that_this_process_maps_twice_is_counted_twice() {
        require!(kernel::is_root(), "root for /proc/kpagecount");
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(2 << 20).unwrap();
        let two_mib = Bytes(2 << 20);
        let map = || {
            let all = Addresses::reserve(two_mib, two_mib, Forking::Withheld).unwrap();
            let memory = Memory::File { file: file.as_fd(), offset: Bytes(0), huge: None };
            // SAFETY: nothing was there before, and nobody looks at it now.
            unsafe { all.map(all.pages(), memory) }.unwrap();
            own::populate(all.pages()).unwrap();
            all
        };
        let first = map();
        let violations = || {
            let witness = Witness::new().unwrap();
            let (mut words, mut audit) = (vec![0; 512], Audit::default());
            witness.read(first.pages(), &mut words).unwrap();
            words.iter_mut().for_each(|word| *word |= Word::EXCLUSIVE);
            witness.check_words(first.pages(), &words, &mut audit).unwrap();
            audit.violations
        };
        assert_eq!(violations(), []);
        let second = map();
        assert_eq!(violations(), [Violation::Shared(first.pages().start)]);
        drop(second);
        assert_eq!(violations(), []);
    }

    /// Who reads meanwhile gets more pages of zeroes than were counted.
    #[test]
    fn no_more_pages_of_zeroes_are_taken_off_than_were_counted() {
        let region = Region::new(Bytes(2 << 20)).unwrap();
        let pages = PageRange::starting_at(region.pages().start, Pages(3));
        (0..3).for_each(|page| assert_eq!(region.peek(page << 12), 0));
        let witness = Witness::new().unwrap();
        let (mut words, mut audit) = ([0; 3], Audit::default());
        witness.read(pages, &mut words).unwrap();
        (words[1], words[2]) = (0, 0);
        audit.present = present(pages, &words);
        witness.check_words(pages, &words, &mut audit).unwrap();
        assert_eq!((audit.present, audit.violations), (Pages(0), vec![]));
    }

    /// A gigabyte at 0x40000000, mapped from 4 GiB of a file on, and another mapping.
    fn second_place_beside(other: &str) -> Option<u64> {
        let text = format!("40000000-80000000 rw-s 100000000 00:05 4 /dev/mem\n{other}\n");
        let mappings = recoup_sys::maps::parse("test", text.as_bytes()).unwrap();
        let gigabyte = PageRange::starting_at(PageIdx(0x40000), Pages(0x40000));
        second_place(&mappings, gigabyte).map(|page| page.0)
    }

    #[test]
    fn a_part_of_a_file_that_is_mapped_twice_is_found() {
        let of_others = [
            "80000000-c0000000 rw-s 140000000 00:05 4 /dev/mem",
            "80000000-c0000000 rw-s 100000000 00:05 5 /dev/other",
            "80000000-80001000 rw-s fffff000 00:05 4 /dev/mem",
            "80000000-c0000000 rw-p 00000000 00:00 0",
        ];
        assert_eq!(of_others.map(second_place_beside), [None; 4]);
        // Where a forked child has other memory.
        let text =
            b"40000000-80000000 rw-p 00000000 00:00 0\n90000000-a0000000 rw-p 00000000 00:00 0\n";
        let gigabyte = PageRange::starting_at(PageIdx(0x40000), Pages(0x40000));
        assert_eq!(second_place(&recoup_sys::maps::parse("test", text).unwrap(), gigabyte), None);
        let again = [
            "80000000-c0000000 rw-s 100000000 00:05 4 /dev/mem",
            "80000000-80001000 r--s 100003000 00:05 4 /dev/mem",
            "80000000-80003000 rw-s ffffe000 00:05 4 /dev/mem",
            "80000000-80003000 rw-p 13ffff000 00:05 4 /dev/mem",
        ];
        assert_eq!(again.map(second_place_beside), [0x40000, 0x40003, 0x40000, 0x7ffff].map(Some));
    }
}
