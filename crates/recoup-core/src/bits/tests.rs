//! The arithmetic at reduced width, exhaustively: every operation works on each word alone but for
//! what crosses from one into the next. So all patterns at the start, at the end and across the
//! border of two words stand for those of eight.

extern crate std;

use super::*;
use std::vec::Vec;

/// Bits of a pattern, all of whose values are tried.
const PATTERN: usize = if cfg!(miri) { 2 } else { 10 };
/// Of the cases that are tried, one in so many.
const STEP: usize = if cfg!(miri) { 7 } else { 1 };
/// Where the pattern is put: the start, a word's inside, its end, the border and the bitmap's end.
const PLACES: [usize; 5] = [0, 23, WORD - PATTERN, WORD - PATTERN / 2, 2 * WORD - PATTERN];

/// All patterns at all places, with what surrounds them all clear or all set.
fn all_patterns() -> impl Iterator<Item = Bits<2>> {
    PLACES.into_iter().flat_map(|place| {
        (0_u128..1 << PATTERN).flat_map(move |pattern| {
            let window = ((1_u128 << PATTERN) - 1) << place;
            [pattern << place, !window | pattern << place].map(from_u128)
        })
    })
}

fn from_u128(value: u128) -> Bits<2> {
    let word = |shift| u64::try_from(value >> shift & u128::from(u64::MAX)).unwrap();
    Bits::from_words([word(0), word(WORD)])
}

/// The same as a list, looked at one by one.
fn naive(bits: Bits<2>) -> Vec<bool> {
    let value = u128::from(bits.0[0]) | u128::from(bits.0[1]) << WORD;
    (0..2 * WORD).map(|bit| value >> bit & 1 == 1).collect()
}

fn naive_run(list: &[bool], length: usize, alignment: usize) -> Option<usize> {
    (0..list.len())
        .step_by(alignment)
        .find(|&start| list.get(start..start + length).is_some_and(|run| run.iter().all(|&b| b)))
}

#[test]
fn every_run_of_every_pattern_is_found_where_it_is_lowest() {
    for bits in all_patterns().step_by(STEP) {
        let list = naive(bits);
        for length in [1, 2, 3, 5, 8, 64, 65, 128] {
            for alignment in [1, 2, 4, 64] {
                assert_eq!(
                    bits.find_run(length, alignment),
                    naive_run(&list, length, alignment),
                    "{length} at a multiple of {alignment} in {bits:x?}"
                );
            }
        }
    }
}

#[test]
fn the_runs_of_every_pattern_are_its_bits_and_as_long_as_possible() {
    for bits in all_patterns().step_by(STEP) {
        let list = naive(bits);
        let ones: Vec<usize> = (0..list.len()).filter(|&bit| list[bit]).collect();
        assert_eq!(bits.ones().collect::<Vec<_>>(), ones);
        assert_eq!(bits.runs().flatten().collect::<Vec<_>>(), ones);
        assert_eq!((bits.count(), bits.is_empty()), (ones.len(), ones.is_empty()));
        for run in bits.runs() {
            assert!(run.start == 0 || !list[run.start - 1], "{run:?} starts late in {bits:x?}");
            assert!(!bits.contains(run.end), "{run:?} ends early in {bits:x?}");
        }
    }
}

#[test]
fn the_next_bit_is_the_nearest_from_every_place() {
    for bits in all_patterns().step_by(7 * STEP) {
        let list = naive(bits);
        for from in 0..list.len() + 2 {
            let set = (from..list.len()).find(|&bit| list[bit]);
            let clear = (from..list.len()).find(|&bit| !list[bit]);
            assert_eq!((bits.next_set(from), bits.next_clear(from)), (set, clear), "{bits:x?}");
        }
    }
}

#[test]
fn every_range_is_its_bits_one_by_one() {
    for start in (0..=2 * WORD + 1).step_by(5 * STEP - 4) {
        for end in (0..=2 * WORD + 1).step_by(5 * STEP - 4) {
            let range = start..end;
            let mut one_by_one = Bits::<2>::EMPTY;
            range.clone().for_each(|bit| one_by_one.insert(bit));
            let mut at_once = Bits::<2>::EMPTY;
            at_once.insert_range(range.clone());
            assert_eq!(at_once, one_by_one, "{range:?}");
            let mut rest = Bits::<2>::FULL;
            rest.remove_range(range.clone());
            assert_eq!(rest, !one_by_one, "{range:?}");
            range.clone().for_each(|bit| one_by_one.remove(bit));
            assert_eq!(one_by_one, Bits::EMPTY);
        }
    }
}

#[test]
fn questions_about_a_range_are_those_about_its_bits() {
    for bits in all_patterns().step_by(5) {
        let list = naive(bits);
        for range in [0..128, 0..0, 60..70, 63..64, 64..65, 20..40, 118..200, 130..140] {
            let part: Vec<bool> = range.clone().filter_map(|bit| list.get(bit).copied()).collect();
            let set = part.iter().filter(|&&bit| bit).count();
            assert_eq!(bits.count_in(range.clone()), set);
            assert_eq!(bits.intersects(range.clone()), set > 0);
            assert_eq!(bits.contains_all(range), set == part.len());
        }
    }
}

#[test]
fn sets_combine_bit_by_bit() {
    let (low, high) = (from_u128(0b0011), from_u128(0b0101 | 1 << 127));
    assert_eq!(low & high, from_u128(0b0001));
    assert_eq!(low | high, from_u128(0b0111 | 1 << 127));
    assert_eq!(!low, from_u128(u128::MAX - 0b0011));
}

#[test]
fn what_lies_past_the_end_is_not_there() {
    let mut bits = Bits::<1>::EMPTY;
    bits.insert(64);
    bits.insert_range(64..usize::MAX);
    assert_eq!(bits, Bits::EMPTY);
    let mut full = Bits::<1>::FULL;
    full.remove(64);
    assert!(!full.contains(64) && !full.contains(usize::MAX));
    assert_eq!((full.next_set(usize::MAX), full.next_clear(0)), (None, None));
    assert_eq!(full.find_run(65, 1), None);
    assert_eq!(full.find_run(1, usize::MAX), Some(0));
    assert_eq!(full.find_run(usize::MAX, usize::MAX), None);
}
