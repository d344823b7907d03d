//! Which extents move so that whole superchunks become empty.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use crate::bits::Bits512;
use crate::book::{Alignment, Move};
use crate::superchunk::Superchunk;
use crate::units::{CHUNKS_PER_SUPERCHUNK, ChunkRun, SuperchunkIdx};

/// What to do so that as many superchunks as possible become empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The superchunks that are empty after the moves, the sparsest first; some are already.
    pub emptied: Vec<SuperchunkIdx>,
    /// The moves. They do not depend on each other: no target is another's source.
    pub moves: Vec<Move>,
}

/// The greatest number of superchunks that can be empty at once, if extents could be cut into single
/// chunks. One with pinned chunks, or with some in flight, cannot be emptied, but filled.
///
/// Emptying a superchunk takes its free chunks away from the room, and needs as many of it as it has
/// allocated: 512 together, whichever it is. So the number follows from the room alone.
#[must_use]
pub fn most_emptied(superchunks: &[Superchunk]) -> usize {
    let room: usize = superchunks.iter().map(|superchunk| superchunk.tally().takeable).sum();
    let movable = superchunks.iter().filter(|superchunk| can_be_emptied(superchunk)).count();
    movable.min(room / CHUNKS_PER_SUPERCHUNK)
}

/// Plans a compaction, by the occupancy alone: it changes nothing, and may be out of date when it is
/// carried out (then [`begin_move`](crate::PoolBook::begin_move) refuses).
///
/// Empties [`most_emptied`] superchunks by the fewest moves if all extents that move are single
/// chunks. Longer ones keep their natural alignment where they have it, and may not fit so well:
/// then as many of the sparsest superchunks for which it succeeds to place the longest extents
/// first, each at the first place in the fullest superchunk that has one. Never moves an extent for
/// nothing.
///
/// Costs a sort, and about a look at one superchunk for each move; again for each superchunk by which
/// it misses the bound.
#[must_use]
pub fn plan(superchunks: &[Superchunk]) -> Plan {
    let sparsest = sparsest_first(superchunks);
    (0..=most_emptied(superchunks))
        .rev()
        .find_map(|count| {
            let emptied = &sparsest[..count];
            let moves = place_all(superchunks, emptied)?;
            Some(Plan { emptied: emptied.iter().map(|&at| index_of(at)).collect(), moves })
        })
        .unwrap_or_default()
}

fn can_be_emptied(superchunk: &Superchunk) -> bool {
    superchunk.is_present() && superchunk.pinned() == 0 && !superchunk.has_in_flight()
}

/// The superchunks that can be emptied, those with the least to move first.
fn sparsest_first(superchunks: &[Superchunk]) -> Vec<usize> {
    let movable = |&at: &usize| can_be_emptied(&superchunks[at]);
    let mut sparsest: Vec<usize> = (0..superchunks.len()).filter(movable).collect();
    sparsest.sort_by_cached_key(|&at| superchunks[at].allocated());
    sparsest
}

/// A superchunk that takes in what moves.
struct Target {
    index: SuperchunkIdx,
    takeable: Bits512,
    warm: Bits512,
}

impl Target {
    fn new(at: usize, superchunk: &Superchunk) -> Self {
        Self { index: index_of(at), takeable: superchunk.takeable(), warm: superchunk.warm() }
    }

    /// Sets a place apart, backed if there is one.
    fn place(&mut self, length: usize, alignment: usize) -> Option<ChunkRun> {
        let start = self
            .warm
            .find_run(length, alignment)
            .or_else(|| self.takeable.find_run(length, alignment))?;
        let slots = start..start + length;
        self.takeable.remove_range(slots.clone());
        self.warm.remove_range(slots.clone());
        Some(ChunkRun::at(self.index, &slots))
    }
}

/// Moves everything out of these superchunks into others, or nothing if that does not succeed.
fn place_all(superchunks: &[Superchunk], emptied: &[usize]) -> Option<Vec<Move>> {
    let mut is_emptied = alloc::vec![false; superchunks.len()];
    emptied.iter().for_each(|&at| is_emptied[at] = true);
    let takes_in = |&at: &usize| !is_emptied[at] && superchunks[at].tally().takeable > 0;
    let mut targets: Vec<usize> = (0..superchunks.len()).filter(takes_in).collect();
    targets.sort_by_key(|&at| superchunks[at].tally().takeable);
    let mut targets: Vec<Target> =
        targets.into_iter().map(|at| Target::new(at, &superchunks[at])).collect();

    let mut extents: Vec<(usize, Range<usize>)> = emptied
        .iter()
        .flat_map(|&at| superchunks[at].extents().map(move |slots| (at, slots)))
        .collect();
    extents.sort_by_key(|(_, slots)| Reverse(slots.len()));

    // Targets before this one are full.
    let mut first = 0;
    let mut moves = Vec::with_capacity(extents.len());
    for (at, slots) in extents {
        while targets.get(first).is_some_and(|target| target.takeable.is_empty()) {
            first += 1;
        }
        let (length, alignment) = (slots.len(), alignment_of(&slots));
        let open = targets.get_mut(first..)?;
        let to = open.iter_mut().find_map(|target| target.place(length, alignment))?;
        moves.push(Move { from: ChunkRun::at(index_of(at), &slots), to });
    }
    Some(moves)
}

/// What an extent may rely on, as far as its place tells.
fn alignment_of(slots: &Range<usize>) -> usize {
    let natural = Alignment::Natural.of(slots.len());
    if slots.start % natural == 0 { natural } else { Alignment::Chunk.of(slots.len()) }
}

fn index_of(at: usize) -> SuperchunkIdx {
    SuperchunkIdx(at as u64)
}
