//! What a sweep frees.

use std::time::Duration;

use recoup::tables::{Mode, Sweeper};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::{Bytes, Features, Pages};
use recoup_testkit::{kernel, require};

use crate::arena::{
    FENCES, alone, both_ways, features, fences, region, settled, tables, tables_below,
};

const BLOCKS: u64 = 2048;
const PAUSE: Duration = Duration::from_millis(10);

/// Touches a page of every block by `touch`; the tables it took.
fn fill(region: &mut Region, mut touch: impl FnMut(&mut Region, u64)) -> (u64, u64) {
    let before = tables();
    (0..BLOCKS).for_each(|block| touch(region, block));
    let full = tables();
    assert!(full >= before + BLOCKS * 4096, "{before} {full}");
    (before, full)
}

fn touch_and_discard(region: &mut Region, block: u64) {
    region.touch(Pages(block * 512 + block % 512), Pages(1));
    region.advise(Pages(block * 512 + block % 512), Pages(1), OwnAdvice::Discard).unwrap();
}

fn swept(region: &Region, mode: Mode) -> recoup::tables::Outcome {
    swept_with(region, mode, &features())
}

fn swept_with(region: &Region, mode: Mode, features: &Features) -> recoup::tables::Outcome {
    let mut sweeper = Sweeper::new(settled(region.pages()), PAUSE, features).unwrap();
    sweeper.sweep(mode, Bytes::ZERO).unwrap()
}

/// With what this kernel shows of page tables, and with what Linux 7.3 does; with how it frees them, and
/// with how others do.
fn all_ways() -> [Features; 4] {
    let [one, other] = both_ways();
    let hidden = [&one, &other].map(kernel::with_tables_hidden);
    let [one_hidden, other_hidden] = hidden;
    [one, other, one_hidden, other_hidden]
}

fn mappings(region: &Region) -> usize {
    let own = recoup_sys::Process::own().unwrap();
    let overlaps =
        |m: &&recoup_sys::maps::Mapping| !m.range.intersection(region.pages()).is_empty();
    own.mappings().unwrap().iter().filter(overlaps).count()
}

#[test]
fn empty_tables_go_and_what_is_held_stays() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let looking = all_ways().map(|features| (Mode::Looking, features));
    let fencing = both_ways().map(|features| (Mode::Fencing, features));
    for (mode, features) in looking.into_iter().chain(fencing) {
        let mut region = region(BLOCKS);
        let (before, full) = fill(&mut region, touch_and_discard);
        for block in (0..BLOCKS).step_by(100) {
            region.write(usize::try_from(block << 21).unwrap() + 12345, &[7]);
        }
        let (parts, seen) = (mappings(&region), swept_with(&region, mode, &features));
        let left = tables_below(before + BLOCKS / 8 * 4096);
        assert!(left - before <= BLOCKS / 8 * 4096, "{before} {full} {left} {mode:?} {seen:?}");
        assert_eq!(mappings(&region), parts, "{mode:?}");
        for block in 0..BLOCKS {
            let byte = region.peek(usize::try_from(block << 21).unwrap() + 12345);
            assert_eq!(byte, if block % 100 == 0 { 7 } else { 0 }, "{block}");
        }
        assert_eq!(seen.left_alone, 0);
    }
}

#[test]
fn tables_of_the_zero_page_go_too() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    for features in all_ways() {
        let mut region = region(BLOCKS);
        let (before, full) = fill(&mut region, |region, block| {
            assert_eq!(region.peek(usize::try_from(block << 21).unwrap()), 0);
        });
        region.write(5 << 21, &[9]);
        let seen = swept_with(&region, Mode::Looking, &features);
        let left = tables_below(before + BLOCKS / 8 * 4096);
        assert!(left - before <= BLOCKS / 8 * 4096, "{before} {full} {left} {seen:?}");
        assert_eq!((region.peek(5 << 21), region.peek(6 << 21)), (9, 0));
        region.write(7 << 21, &[1]);
        assert_eq!(region.peek(7 << 21), 1);
    }
}

#[test]
fn only_what_is_settled_is_swept() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let (mut ours, mut other) = (region(BLOCKS), region(BLOCKS));
    fill(&mut ours, touch_and_discard);
    let (_, full) = fill(&mut other, touch_and_discard);
    swept(&ours, Mode::Fencing);
    let left = tables_below(full - BLOCKS * 4000);
    assert!(full - left < (BLOCKS + 64) * 4096, "{full} {left}");
    assert!(full - left >= BLOCKS * 4000, "{full} {left}");
}
