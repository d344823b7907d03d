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

mod validate;

pub use validate::Violation;

use core::num::NonZeroU32;
use core::ops::Range;

use crate::account::OwnerId;
use crate::bits::{Bits512, WORD, spans};
use crate::hints::Fate;
use crate::units::CHUNKS_PER_SUPERCHUNK;

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
    /// All of it, with the bytes of whoever had it before.
    Used,
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

/// What is known of 64 chunks, a bit each: together, so that a change touches few cache lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answers {
    /// Does an owner have the chunk?
    allocated: u64,
    /// Does an extent start with the chunk?
    starts: u64,
    /// May memory stand behind the chunk?
    backed: u64,
    /// Was the chunk taken out to be given back?
    isolated: u64,
    /// Is a request to give the chunk back under way?
    in_flight: u64,
    /// Must the chunk stay where it is?
    pinned: u64,
}

impl Answers {
    const fn takeable(&self) -> u64 {
        !self.allocated & !self.in_flight
    }

    const fn warm(&self) -> u64 {
        self.backed & !self.allocated & !self.isolated
    }

    const fn waiting(&self) -> u64 {
        self.backed & self.isolated & self.takeable()
    }

    /// The tally of the chunks in a mask.
    fn tally(&self, mask: u64) -> Tally {
        Tally {
            takeable: ones(self.takeable() & mask),
            warm: ones(self.warm() & mask),
            waiting: ones(self.waiting() & mask),
        }
    }
}

/// How many bits are set. Most often it is none: then nothing is counted, which takes a dozen
/// instructions on processors of the oldest kind.
const fn ones(word: u64) -> usize {
    if word == 0 { 0 } else { word.count_ones() as usize }
}

/// The book of one superchunk.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Superchunk {
    answers: [Answers; WORDS],
    /// Whose bytes may be in the chunk?
    bytes_of: [Option<OwnerId>; CHUNKS_PER_SUPERCHUNK],
    /// Kept beside the answers, as every allocation asks for it.
    tally: Tally,
    pub(crate) link: Link,
    /// Is the superchunk part of the pool?
    pub(crate) present: bool,
}

/// How many chunks are looked at for one that its owner gets without zeroing.
pub const LOOKS: usize = 64;

/// Words of 64 chunks.
const WORDS: usize = CHUNKS_PER_SUPERCHUNK / WORD;

/// Bytes of bookkeeping for each GiB of a pool, apart from hints (a bit a chunk).
pub const BYTES_PER_SUPERCHUNK: usize = size_of::<Superchunk>();

// Six bits and an owner of four bytes a chunk, and less than two cache lines for the whole.
const _: () = assert!(BYTES_PER_SUPERCHUNK <= CHUNKS_PER_SUPERCHUNK * (6 + 32) / 8 + 128);

impl Default for Superchunk {
    /// A superchunk that is not part of the pool.
    fn default() -> Self {
        Self {
            answers: [Answers::default(); WORDS],
            bytes_of: [None; CHUNKS_PER_SUPERCHUNK],
            tally: Tally::default(),
            link: Link::default(),
            present: false,
        }
    }
}

// What can be asked. Inlined is what the book needs for each allocation: it is generic, and so compiled
// in other crates.
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
        self.chunks(|answers| answers.allocated).count()
    }

    /// How many chunks memory may stand behind.
    #[must_use]
    pub fn backed(&self) -> usize {
        self.chunks(|answers| answers.backed).count()
    }

    /// How many chunks must stay where they are.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.chunks(|answers| answers.pinned).count()
    }

    /// The state of the chunk at a place below 512.
    #[must_use]
    #[inline]
    pub fn state(&self, slot: usize) -> ChunkState {
        let answers = self.answers.get(slot / WORD).copied().unwrap_or_default();
        let is = |answers: u64| answers >> (slot % WORD) & 1 == 1;
        if is(answers.pinned) {
            ChunkState::Pinned
        } else if is(answers.allocated) {
            ChunkState::Held
        } else if is(answers.in_flight) {
            ChunkState::InFlight
        } else if is(answers.isolated) {
            ChunkState::Isolated
        } else if is(answers.backed) {
            ChunkState::Warm
        } else {
            ChunkState::Cold
        }
    }

    /// Whose the chunk at a place below 512 is.
    #[must_use]
    #[inline]
    pub fn owner(&self, slot: usize) -> Option<OwnerId> {
        matches!(self.state(slot), ChunkState::Held | ChunkState::Pinned)
            .then(|| self.bytes_of(slot))
            .flatten()
    }

    /// Whose bytes may be in the chunk at a place below 512: its owner's, or its last owner's.
    #[must_use]
    #[inline]
    pub fn bytes_of(&self, slot: usize) -> Option<OwnerId> {
        self.bytes_of.get(slot).copied().flatten()
    }

    /// The places of each extent, in order.
    pub fn extents(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (starts, allocated) = (self.chunks(|it| it.starts), self.chunks(|it| it.allocated));
        starts.ones().map(move |start| {
            let gap = allocated.next_clear(start).unwrap_or(CHUNKS_PER_SUPERCHUNK);
            start..starts.next_set(start + 1).map_or(gap, |next| next.min(gap))
        })
    }

    /// Whether exactly these places are one extent.
    #[inline]
    pub(crate) fn is_extent(&self, slots: &Range<usize>) -> bool {
        let goes_on = |it: &Answers| it.allocated & !it.starts;
        let inner = slots.start + 1..slots.end;
        self.any(slots.start..slots.start + 1, |it| it.starts)
            && !self.any(inner, |it| !goes_on(it))
            && !self.any(slots.end..slots.end + 1, goes_on)
    }

    /// Whether some chunk here must stay where it is.
    #[inline]
    pub(crate) fn is_pinned(&self, slots: Range<usize>) -> bool {
        self.any(slots, |answers| answers.pinned)
    }

    /// Whether some chunk is being given back at this moment.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.any(0..CHUNKS_PER_SUPERCHUNK, |answers| answers.in_flight)
    }

    /// Whether none of these chunks has an owner or is in flight.
    pub(crate) fn is_takeable(&self, slots: Range<usize>) -> bool {
        !self.any(slots, |answers| !answers.takeable())
    }

    pub(crate) fn warm(&self) -> Bits512 {
        self.chunks(Answers::warm)
    }

    pub(crate) fn takeable(&self) -> Bits512 {
        self.chunks(Answers::takeable)
    }

    /// The lowest place where an extent fits.
    #[inline]
    pub(crate) fn find(&self, from: Preference, length: usize, alignment: usize) -> Option<usize> {
        let candidates = match from {
            Preference::Warm => self.warm(),
            Preference::Backed => self.chunks(|answers| answers.backed & answers.takeable()),
            Preference::Takeable => self.takeable(),
            Preference::Eventually => self.chunks(|answers| !answers.allocated),
        };
        candidates.find_run(length, alignment)
    }

    /// In place of a warm chunk with another owner's bytes, the first of the next few that are warm and
    /// need not be zeroed for this owner: the search is faster by far than the zeroing.
    #[inline]
    pub(crate) fn prefer_own(&self, slot: usize, owner: OwnerId) -> usize {
        let is_own = |&slot: &usize| self.bytes_of(slot).is_none_or(|last| last == owner);
        if is_own(&slot) {
            return slot;
        }
        let warm = self.warm();
        let next = core::iter::successors(Some(slot), |&slot| warm.next_set(slot + 1));
        if !warm.contains(slot) {
            return slot;
        }
        next.take(LOOKS).find(is_own).unwrap_or(slot)
    }

    /// The chunks of which something holds.
    fn chunks(&self, question: impl Fn(&Answers) -> u64) -> Bits512 {
        Bits512::from_words(self.answers.each_ref().map(question))
    }

    /// The chunks among these of which something holds.
    fn chunks_in(&self, slots: Range<usize>, question: impl Fn(&Answers) -> u64) -> Bits512 {
        let mut words = [0; WORDS];
        for (index, mask) in spans::<WORDS>(slots) {
            words[index] = question(&self.answers[index]) & mask;
        }
        Bits512::from_words(words)
    }

    /// Whether something holds of any of these chunks.
    fn any(&self, slots: Range<usize>, question: impl Fn(&Answers) -> u64) -> bool {
        spans::<WORDS>(slots).any(|(index, mask)| question(&self.answers[index]) & mask != 0)
    }
}

// What changes the book. Each step takes chunks from the states that its text names, which the
// caller has made sure of.
impl Superchunk {
    /// The book of a superchunk that comes into a pool.
    pub(crate) fn attached(backing: Backing) -> Self {
        let (backed, bytes_of) = match backing {
            Backing::OnTouch => (0, None),
            Backing::Zeroed => (u64::MAX, None),
            Backing::Used => (u64::MAX, Some(OwnerId::STRANGER)),
        };
        let bytes_of = [bytes_of; CHUNKS_PER_SUPERCHUNK];
        let mut new = Self { present: true, bytes_of, ..Self::default() };
        new.answers.iter_mut().for_each(|answers| answers.backed = backed);
        new.tally = new.count();
        new
    }

    /// Takeable chunks become an extent of this owner. Says which may hold another owner's bytes, and
    /// behind which nothing stands.
    pub(crate) fn take(&mut self, slots: Range<usize>, owner: OwnerId) -> (Bits512, Bits512) {
        let cold = self.chunks_in(slots.clone(), |answers| !answers.backed);
        let mut foreign = Bits512::EMPTY;
        for slot in slots.clone() {
            if self.bytes_of[slot].replace(owner).is_some_and(|last| last != owner) {
                foreign.insert(slot);
            }
        }
        // No tally asks where an extent starts.
        self.answers[slots.start / WORD].starts |= 1 << (slots.start % WORD);
        self.change(slots, |answers, mask| {
            answers.allocated |= mask;
            answers.backed |= mask;
            answers.isolated &= !mask;
        });
        (foreign, cold)
    }

    /// What `take` did is undone: nothing has stood behind the cold chunks, and the foreign ones hold
    /// what they held.
    pub(crate) fn untake(&mut self, slots: Range<usize>, foreign: &Bits512, cold: &Bits512) {
        for slot in foreign.ones() {
            self.bytes_of[slot] = Some(OwnerId::STRANGER);
        }
        for slot in cold.ones() {
            self.bytes_of[slot] = None;
            self.change(slot..slot + 1, |answers, mask| answers.backed &= !mask);
        }
        self.release(slots);
    }

    /// An extent becomes warm.
    pub(crate) fn release(&mut self, slots: Range<usize>) {
        self.change(slots, |answers, mask| {
            answers.starts &= !mask;
            answers.allocated &= !mask;
        });
    }

    /// An extent starts here, in the midst of another.
    pub(crate) fn split(&mut self, slot: usize) {
        // No tally asks where an extent starts.
        self.answers[slot / WORD].starts |= 1 << (slot % WORD);
    }

    /// An extent must stay where it is.
    pub(crate) fn pin(&mut self, slots: Range<usize>) {
        self.change(slots, |answers, mask| answers.pinned |= mask);
    }

    /// An extent may be moved again.
    pub(crate) fn unpin(&mut self, slots: Range<usize>) {
        self.change(slots, |answers, mask| answers.pinned &= !mask);
    }

    /// Warm and cold chunks become isolated, if all of these are that and one of them is warm.
    pub(crate) fn isolate(&mut self, slots: Range<usize>) -> bool {
        let worth_it = !self.any(slots.clone(), |it| it.allocated | it.isolated)
            && self.any(slots.clone(), |answers| answers.backed);
        if worth_it {
            self.change(slots, |answers, mask| answers.isolated |= mask);
        }
        worth_it
    }

    /// What is isolated but not in flight becomes warm or cold, as it was.
    pub(crate) fn restore(&mut self, slots: Range<usize>) {
        self.change(slots, |answers, mask| answers.isolated &= !mask | answers.in_flight);
    }

    /// Isolated chunks become in flight, if none of them was taken meanwhile.
    pub(crate) fn send(&mut self, slots: Range<usize>) -> bool {
        let ready = !self.any(slots.clone(), |it| !it.isolated | it.in_flight);
        if ready {
            self.change(slots, |answers, mask| answers.in_flight |= mask);
        }
        ready
    }

    /// Chunks in flight become cold, or what they were. Others stay what they are.
    pub(crate) fn settle(&mut self, slots: Range<usize>, fate: Fate) {
        if self.any(slots.clone(), |answers| !answers.in_flight) {
            return;
        }
        if fate == Fate::Returned {
            self.bytes_of[slots.clone()].fill(None);
            self.change(slots.clone(), |answers, mask| answers.backed &= !mask);
        }
        self.change(slots, |answers, mask| {
            answers.isolated &= !mask;
            answers.in_flight &= !mask;
        });
    }

    /// Applies a change to these chunks, up to 64 at a time, and brings the tally up to date.
    fn change(&mut self, slots: Range<usize>, apply: impl Fn(&mut Answers, u64)) {
        for (index, mask) in spans::<WORDS>(slots) {
            let answers = &mut self.answers[index];
            let before = answers.tally(mask);
            apply(answers, mask);
            let after = answers.tally(mask);
            let tally = &mut self.tally;
            tally.takeable = tally.takeable + after.takeable - before.takeable;
            tally.warm = tally.warm + after.warm - before.warm;
            tally.waiting = tally.waiting + after.waiting - before.waiting;
        }
    }

    /// The tally that the answers give.
    fn count(&self) -> Tally {
        self.answers.iter().map(|answers| answers.tally(u64::MAX)).fold(
            Tally::default(),
            |sum, part| Tally {
                takeable: sum.takeable + part.takeable,
                warm: sum.warm + part.warm,
                waiting: sum.waiting + part.waiting,
            },
        )
    }
}

#[cfg(test)]
mod tests;
