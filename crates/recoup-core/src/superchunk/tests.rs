//! Each violation that `validate` knows, planted into a book that was right.

use super::*;
use crate::units::{ChunkRun, SuperchunkIdx};

const AT: SuperchunkIdx = SuperchunkIdx(3);

fn owner(number: u32) -> OwnerId {
    OwnerId::new(number).unwrap()
}

/// Extents of two owners side by side, warm, isolated, in-flight and cold chunks.
fn book() -> Superchunk {
    let mut book = Superchunk::attached(Backing::OnTouch);
    book.take(0..4, owner(1));
    book.take(4..6, owner(2));
    book.take(6..10, owner(1));
    book.release(6..10);
    assert!(book.isolate(7..8) && book.isolate(8..9) && book.send(8..9));
    assert_eq!(book.validate(AT), Ok(()));
    book
}

fn at(slot: usize) -> ChunkRun {
    ChunkRun::single(AT.chunk(slot))
}

fn planted(plant: impl FnOnce(&mut Superchunk)) -> Violation {
    let mut book = book();
    plant(&mut book);
    book.validate(AT).unwrap_err()
}

#[test]
fn states_are_those_of_the_table() {
    use ChunkState::{Cold, Held, InFlight, Isolated, Pinned, Warm};
    let mut book = book();
    book.pin(4..6);
    let states = [0, 4, 6, 7, 8, 9, 10].map(|slot| book.state(slot));
    assert_eq!(states, [Held, Pinned, Warm, Isolated, InFlight, Warm, Cold]);
    assert!(book.extents().eq([0..4, 4..6]));
    assert_eq!((book.owner(5), book.owner(6)), (Some(owner(2)), None));
    assert_eq!((book.bytes_of(6), book.bytes_of(10)), (Some(owner(1)), None));
    assert_eq!(book.tally(), Tally { takeable: 505, warm: 2, waiting: 1 });
    assert_eq!(book.validate(AT), Ok(()));
}

#[test]
fn every_combination_of_answers_is_legal_or_found() {
    for answers in 0..1 << 5 {
        let [allocated, backed, isolated, in_flight, pinned] =
            [0, 1, 2, 3, 4].map(|bit| answers >> bit & 1 == 1);
        let mut book = Superchunk::attached(Backing::OnTouch);
        let answer = |yes| if yes { 1 << 13 } else { 0 };
        book.answers[1] = Answers {
            allocated: answer(allocated),
            starts: answer(allocated),
            backed: answer(backed),
            isolated: answer(isolated),
            in_flight: answer(in_flight),
            pinned: answer(pinned),
        };
        book.bytes_of[77] = allocated.then_some(owner(1));
        book.tally = book.count();
        // The rows of the table: cold, warm, held, pinned, isolated (2), in flight (2).
        let legal = matches!(
            (allocated, backed, isolated, in_flight, pinned),
            (false, _, false, false, false)
                | (true, true, false, false, _)
                | (false, _, true, _, false)
        );
        let expected = if legal { Ok(()) } else { Err(Violation::State(at(77))) };
        assert_eq!(book.validate(AT), expected, "{answers:05b}");
    }
}

#[test]
fn an_allocated_chunk_of_nobody_is_found() {
    assert_eq!(planted(|book| book.bytes_of[0] = None), Violation::Owner(at(0)));
}

#[test]
fn bytes_in_a_cold_chunk_are_found() {
    assert_eq!(planted(|book| book.bytes_of[10] = Some(owner(1))), Violation::Owner(at(10)));
}

#[test]
fn an_extent_of_two_owners_is_found() {
    assert_eq!(planted(|book| book.bytes_of[2] = Some(owner(2))), Violation::Extent(at(2)));
}

#[test]
fn an_extent_without_a_start_is_found() {
    assert_eq!(planted(|book| book.answers[0].starts &= !(1 << 0)), Violation::Extent(at(0)));
    assert_eq!(planted(|book| book.answers[0].starts &= !(1 << 4)), Violation::Extent(at(4)));
}

#[test]
fn a_start_without_an_extent_is_found() {
    assert_eq!(planted(|book| book.answers[0].starts |= 1 << 20), Violation::Extent(at(20)));
}

#[test]
fn a_half_pinned_extent_is_found() {
    assert_eq!(planted(|book| book.answers[0].pinned |= 1 << 1), Violation::Extent(at(1)));
}

#[test]
fn a_tally_that_drifted_is_found() {
    let violation = planted(|book| book.tally.warm += 1);
    assert!(matches!(violation, Violation::Tally { superchunk: AT, .. }), "{violation}");
}

#[test]
fn what_is_restored_leaves_alone_what_is_in_flight() {
    let mut book = book();
    book.restore(6..9);
    assert_eq!([7, 8].map(|slot| book.state(slot)), [ChunkState::Warm, ChunkState::InFlight]);
    assert_eq!(book.validate(AT), Ok(()));
}

#[test]
fn only_what_is_in_flight_is_settled() {
    let mut book = book();
    let before = book.clone();
    for slots in [0..1, 6..7, 7..8, 8..10] {
        book.settle(slots, Fate::Returned);
    }
    assert_eq!((book.tally, book.answers), (before.tally, before.answers));
    book.settle(8..9, Fate::Returned);
    assert_eq!((book.state(8), book.bytes_of(8)), (ChunkState::Cold, None));
    assert_eq!(book.validate(AT), Ok(()));
}
