//! The check of a book against ground truth.

use super::{Answers, Superchunk, Tally};
use crate::bits::Bits512;
use crate::units::{ChunkRun, SuperchunkIdx};

/// What is wrong with a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A chunk's answers are none of the [legal combinations](super).
    State(ChunkRun),
    /// A chunk's owner, or last owner, does not fit its state.
    Owner(ChunkRun),
    /// An extent has no start, a start has no extent, or an extent's chunks differ in owner or pin.
    Extent(ChunkRun),
    /// The tally is not what the bitmaps say.
    Tally {
        /// Of which superchunk.
        superchunk: SuperchunkIdx,
        /// What is kept.
        kept: Tally,
        /// What was counted.
        counted: Tally,
    },
    /// A superchunk is not where an allocation would look for it.
    Shelf(SuperchunkIdx),
    /// An allocation would look for superchunks where there are none, or not where there are.
    Summary,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::State(at) => write!(f, "chunk {at}: an impossible state"),
            Self::Owner(at) => write!(f, "chunk {at}: an owner that does not fit its state"),
            Self::Extent(at) => write!(f, "chunk {at}: not one extent of one owner"),
            Self::Tally { superchunk, kept, counted } => {
                write!(f, "superchunk {superchunk}: {kept:?} is kept, but {counted:?} counted")
            }
            Self::Summary => f.write_str("what is marked as occupied is not what is"),
            Self::Shelf(superchunk) => write!(f, "superchunk {superchunk}: on a wrong shelf"),
        }
    }
}

impl core::error::Error for Violation {}

impl Superchunk {
    /// Checks the bitmaps, the owners and the tally against each other. Costs about 1 µs.
    ///
    /// # Errors
    /// The first thing that is wrong, with the index that this superchunk is known by.
    pub fn validate(&self, index: SuperchunkIdx) -> Result<(), Violation> {
        let first = |wrong: Bits512, violation: fn(ChunkRun) -> Violation| match wrong.next_set(0) {
            Some(slot) => Err(violation(ChunkRun::single(index.chunk(slot)))),
            None => Ok(()),
        };
        let illegal = |it: &Answers| {
            it.allocated & (!it.backed | it.isolated)
                | it.pinned & !it.allocated
                | it.in_flight & !it.isolated
        };
        first(self.chunks(illegal), Violation::State)?;
        first(self.wrong_owners(), Violation::Owner)?;
        first(self.wrong_extents(), Violation::Extent)?;
        let counted = if self.present { self.count() } else { Tally::default() };
        if self.tally != counted {
            return Err(Violation::Tally { superchunk: index, kept: self.tally, counted });
        }
        Ok(())
    }

    /// Allocated chunks of nobody, and cold ones with somebody's bytes.
    fn wrong_owners(&self) -> Bits512 {
        let mut somebodys = Bits512::EMPTY;
        for (slot, owner) in self.bytes_of.iter().enumerate() {
            if owner.is_some() {
                somebodys.insert(slot);
            }
        }
        let (allocated, backed) = (self.chunks(|it| it.allocated), self.chunks(|it| it.backed));
        allocated & !somebodys | somebodys & !backed
    }

    /// Starts that are not allocated, and chunks that go on unlike the one before them.
    fn wrong_extents(&self) -> Bits512 {
        let mut wrong = self.chunks(|it| it.starts & !it.allocated);
        let answers = |slot| (self.owner(slot), self.state(slot));
        for slot in self.chunks(|it| it.allocated & !it.starts).ones() {
            let goes_on = slot.checked_sub(1).is_some_and(|last| answers(last) == answers(slot));
            if !goes_on {
                wrong.insert(slot);
            }
        }
        wrong
    }
}
