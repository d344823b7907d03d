//! The book of one superchunk: the state of each of its 512 chunks, and whose bytes are in it.
//!
//! Each bitmap answers one question. These are the legal answers, and what they mean together:
//!
//! | state | allocated? | backed? | isolated? | in flight? | pinned? | bytes of |
//! |---|---|---|---|---|---|---|
//! | [`Cold`](ChunkState::Cold) | – | – | – | – | – | nobody |
//! | [`Warm`](ChunkState::Warm) | – | yes | – | – | – | its last owner, if any |
//! | [`Held`](ChunkState::Held) | yes | yes | – | – | – | its owner |
//! | [`Pinned`](ChunkState::Pinned) | yes | yes | – | – | yes | its owner |
//! | [`Isolated`](ChunkState::Isolated) | – | as it was | yes | – | – | as it was |
//! | [`InFlight`](ChunkState::InFlight) | – | as it was | yes | yes | – | as it was |
//!
//! A chunk is *backed* once it was handed out, until it is given back: memory may stand behind it.
//! What is isolated can still be taken, what is in flight cannot. An *extent* is what was handed out
//! in one piece: it begins at a chunk that `starts` names, and is freed, pinned and moved whole.
//!
//! Everything that changes a book is in [`PoolBook`](crate::PoolBook), its single writer.

use core::num::NonZeroU32;
use core::ops::Range;

use crate::account::OwnerId;
use crate::bits::{Bits512, spans};
use crate::hints::Fate;
use crate::units::{CHUNKS_PER_SUPERCHUNK, ChunkRun, SuperchunkIdx};

/// What a chunk is used for; see the [table](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Free, and no memory stands behind it: it reads as zeroes.
    Cold,
    /// Free, with memory behind it.
    Warm,
    /// An owner's.
    Held,
    /// An owner's, and must stay where it is.
    Pinned,
    /// Free, and about to be given back.
    Isolated,
    /// Named in a request to give it back that is under way.
    InFlight,
}

/// Whether memory stands behind a superchunk when it comes into a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// None: the first touch of a chunk brings it.
    OnTouch,
    /// All of it, and it reads as zeroes.
    Zeroed,
}

/// Which free memory an allocation takes, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preference {
    /// Only what is backed and not isolated.
    Warm,
    /// What is backed, even if it was about to be given back.
    Backed,
    /// All that is not in flight.
    Takeable,
    /// Even what is in flight: nothing can be taken, but after a wait.
    Eventually,
}

/// How many chunks are in a state that an allocation looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not allocated and not in flight.
    pub takeable: usize,
    /// Backed, not allocated and not isolated.
    pub warm: usize,
    /// Backed and isolated, but not in flight.
    pub waiting: usize,
}

/// A superchunk's neighbours on its shelf: see `shelves`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) shelf: Option<crate::shelves::Shelf>,
    pub(crate) before: Option<Place>,
    pub(crate) after: Option<Place>,
}

/// The place of a superchunk in its pool's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

impl Place {
    /// The place of this index, if it is not too large to be one.
    pub(crate) fn new(index: usize) -> Option<Self> {
        u32::try_from(index).ok()?.checked_add(1).and_then(NonZeroU32::new).map(Self)
    }

    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The book of one superchunk.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Superchunk {
    /// Does an owner have the chunk?
    allocated: Bits512,
    /// Does an extent start with the chunk?
    starts: Bits512,
    /// May memory stand behind the chunk?
    backed: Bits512,
    /// Was the chunk taken out to be given back?
    isolated: Bits512,
    /// Is a request to give the chunk back under way?
    in_flight: Bits512,
    /// Must the chunk stay where it is?
    pinned: Bits512,
    /// Whose bytes may be in the chunk?
    bytes_of: [Option<OwnerId>; CHUNKS_PER_SUPERCHUNK],
    /// Kept beside the bitmaps, as every allocation asks for it.
    tally: Tally,
    pub(crate) link: Link,
    /// Is the superchunk part of the pool?
    pub(crate) present: bool,
}

/// Bytes of bookkeeping for each GiB of a pool, apart from hints (a bit a chunk).
pub const BYTES_PER_SUPERCHUNK: usize = size_of::<Superchunk>();

// Six bits and an owner of four bytes a chunk, and less than two cache lines for the whole.
const _: () = assert!(BYTES_PER_SUPERCHUNK <= CHUNKS_PER_SUPERCHUNK * (6 + 32) / 8 + 128);

impl Default for Superchunk {
    /// A superchunk that is not part of the pool.
    fn default() -> Self {
        Self {
            allocated: Bits512::EMPTY,
            starts: Bits512::EMPTY,
            backed: Bits512::EMPTY,
            isolated: Bits512::EMPTY,
            in_flight: Bits512::EMPTY,
            pinned: Bits512::EMPTY,
            bytes_of: [None; CHUNKS_PER_SUPERCHUNK],
            tally: Tally::default(),
            link: Link::default(),
            present: false,
        }
    }
}

// What can be asked.
impl Superchunk {
    /// Whether the superchunk is part of the pool.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.present
    }

    /// How many chunks an allocation finds.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// How many chunks owners have.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.allocated.count()
    }

    /// How many chunks memory may stand behind.
    #[must_use]
    pub fn backed(&self) -> usize {
        self.backed.count()
    }

    /// How many chunks must stay where they are.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.pinned.count()
    }

    /// The state of the chunk at a place below 512.
    #[must_use]
    pub fn state(&self, slot: usize) -> ChunkState {
        if self.pinned.contains(slot) {
            ChunkState::Pinned
        } else if self.allocated.contains(slot) {
            ChunkState::Held
        } else if self.in_flight.contains(slot) {
            ChunkState::InFlight
        } else if self.isolated.contains(slot) {
            ChunkState::Isolated
        } else if self.backed.contains(slot) {
            ChunkState::Warm
        } else {
            ChunkState::Cold
        }
    }

    /// Whose the chunk at a place below 512 is.
    #[must_use]
    pub fn owner(&self, slot: usize) -> Option<OwnerId> {
        if self.allocated.contains(slot) { self.bytes_of(slot) } else { None }
    }

    /// Whose bytes may be in the chunk at a place below 512: its owner's, or its last owner's.
    #[must_use]
    pub fn bytes_of(&self, slot: usize) -> Option<OwnerId> {
        self.bytes_of.get(slot).copied().flatten()
    }

    /// The places of each extent, in order.
    pub fn extents(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.ones().map(|start| start..self.extent_end(start))
    }

    /// The first place after the extent that starts here.
    fn extent_end(&self, start: usize) -> usize {
        let gap = self.allocated.next_clear(start).unwrap_or(CHUNKS_PER_SUPERCHUNK);
        self.starts.next_set(start + 1).map_or(gap, |next| next.min(gap))
    }

    /// Whether exactly these places are one extent.
    pub(crate) fn is_extent(&self, slots: &Range<usize>) -> bool {
        self.starts.contains(slots.start) && self.extent_end(slots.start) == slots.end
    }

    /// Whether some chunk here must stay where it is.
    pub(crate) fn is_pinned(&self, slots: Range<usize>) -> bool {
        self.pinned.intersects(slots)
    }

    /// Whether some chunk is being given back.
    pub(crate) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether none of these chunks has an owner or is in flight.
    pub(crate) fn is_takeable(&self, slots: Range<usize>) -> bool {
        self.takeable().contains_all(slots)
    }

    pub(crate) fn warm(&self) -> Bits512 {
        self.backed & !self.allocated & !self.isolated
    }

    pub(crate) fn takeable(&self) -> Bits512 {
        !self.allocated & !self.in_flight
    }

    /// The lowest place where an extent fits.
    pub(crate) fn find(&self, from: Preference, length: usize, alignment: usize) -> Option<usize> {
        let candidates = match from {
            Preference::Warm => self.warm(),
            Preference::Backed => self.backed & self.takeable(),
            Preference::Takeable => self.takeable(),
            Preference::Eventually => !self.allocated,
        };
        candidates.find_run(length, alignment)
    }
}

// What changes the book. Each step takes chunks from the states that its text names, which the
// caller has made sure of.
impl Superchunk {
    /// The book of a superchunk that comes into a pool.
    pub(crate) fn attached(backing: Backing) -> Self {
        let mut new = Self { present: true, ..Self::default() };
        if backing == Backing::Zeroed {
            new.backed = Bits512::FULL;
        }
        new.tally = new.count(0..CHUNKS_PER_SUPERCHUNK);
        new
    }

    /// Takeable chunks become an extent of this owner. Says which may hold another owner's bytes.
    pub(crate) fn take(&mut self, slots: Range<usize>, owner: OwnerId) -> Bits512 {
        let mut foreign = Bits512::EMPTY;
        for slot in slots.clone() {
            if self.bytes_of[slot].replace(owner).is_some_and(|last| last != owner) {
                foreign.insert(slot);
            }
        }
        self.change(slots.clone(), |book| {
            book.starts.insert(slots.start);
            book.allocated.insert_range(slots.clone());
            book.backed.insert_range(slots.clone());
            book.isolated.remove_range(slots);
        });
        foreign
    }

    /// An extent becomes warm.
    pub(crate) fn release(&mut self, slots: Range<usize>) {
        self.change(slots.clone(), |book| {
            book.starts.remove(slots.start);
            book.allocated.remove_range(slots.clone());
            book.pinned.remove_range(slots);
        });
    }

    /// An extent must stay where it is.
    pub(crate) fn pin(&mut self, slots: Range<usize>) {
        self.pinned.insert_range(slots);
    }

    /// An extent may be moved again.
    pub(crate) fn unpin(&mut self, slots: Range<usize>) {
        self.pinned.remove_range(slots);
    }

    /// Warm and cold chunks become isolated, if all of these are that and one of them is warm.
    pub(crate) fn isolate(&mut self, slots: Range<usize>) -> bool {
        let free = !(self.allocated | self.isolated);
        let worth_it = free.contains_all(slots.clone()) && self.backed.intersects(slots.clone());
        if worth_it {
            self.change(slots.clone(), |book| book.isolated.insert_range(slots));
        }
        worth_it
    }

    /// Isolated chunks become in flight, if none of them was taken meanwhile.
    pub(crate) fn send(&mut self, slots: Range<usize>) -> bool {
        let ready = (self.isolated & self.takeable()).contains_all(slots.clone());
        if ready {
            self.change(slots.clone(), |book| book.in_flight.insert_range(slots));
        }
        ready
    }

    /// What is isolated but not in flight becomes warm or cold, as it was.
    pub(crate) fn restore(&mut self, slots: Range<usize>) {
        self.change(slots.clone(), |book| {
            let in_flight = book.isolated & book.in_flight;
            book.isolated.remove_range(slots);
            book.isolated = book.isolated | in_flight;
        });
    }

    /// Chunks in flight become cold, or what they were. Others stay what they are.
    pub(crate) fn settle(&mut self, slots: Range<usize>, fate: Fate) {
        if !self.in_flight.contains_all(slots.clone()) {
            return;
        }
        if fate == Fate::Returned {
            self.bytes_of[slots.clone()].fill(None);
        }
        self.change(slots.clone(), |book| {
            book.isolated.remove_range(slots.clone());
            book.in_flight.remove_range(slots.clone());
            if fate == Fate::Returned {
                book.backed.remove_range(slots);
            }
        });
    }

    /// Applies a change to these chunks, and brings the tally up to date.
    fn change(&mut self, slots: Range<usize>, apply: impl FnOnce(&mut Self)) {
        let before = self.count(slots.clone());
        apply(self);
        let after = self.count(slots);
        let tally = &mut self.tally;
        tally.takeable = tally.takeable + after.takeable - before.takeable;
        tally.warm = tally.warm + after.warm - before.warm;
        tally.waiting = tally.waiting + after.waiting - before.waiting;
    }

    /// The tally of these chunks, from the bitmaps.
    fn count(&self, slots: Range<usize>) -> Tally {
        let mut tally = Tally::default();
        for (index, mask) in spans::<{ CHUNKS_PER_SUPERCHUNK / 64 }>(slots) {
            let (backed, isolated) = (self.backed.word(index), self.isolated.word(index));
            let free = mask & !self.allocated.word(index);
            let takeable = free & !self.in_flight.word(index);
            tally.takeable += takeable.count_ones() as usize;
            tally.warm += (free & backed & !isolated).count_ones() as usize;
            tally.waiting += (takeable & backed & isolated).count_ones() as usize;
        }
        tally
    }
}

/// What is wrong with a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A chunk's answers are none of the [legal combinations](self).
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
            Self::Shelf(superchunk) => write!(f, "superchunk {superchunk}: on a wrong shelf"),
        }
    }
}

impl core::error::Error for Violation {}

// The check against ground truth.
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
        let illegal = self.allocated & (!self.backed | self.isolated)
            | self.pinned & !self.allocated
            | self.in_flight & !self.isolated;
        first(illegal, Violation::State)?;
        first(self.wrong_owners(), Violation::Owner)?;
        first(self.wrong_extents(), Violation::Extent)?;
        let counted =
            if self.present { self.count(0..CHUNKS_PER_SUPERCHUNK) } else { Tally::default() };
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
        self.allocated & !somebodys | somebodys & !self.backed
    }

    /// Starts that are not allocated, and chunks that go on unlike the one before them.
    fn wrong_extents(&self) -> Bits512 {
        let mut wrong = self.starts & !self.allocated;
        let answers = |slot| (self.owner(slot), self.pinned.contains(slot));
        for slot in (self.allocated & !self.starts).ones() {
            let goes_on = slot.checked_sub(1).is_some_and(|last| answers(last) == answers(slot));
            if !goes_on {
                wrong.insert(slot);
            }
        }
        wrong
    }
}

#[cfg(test)]
#[path = "superchunk_tests.rs"]
mod tests;
