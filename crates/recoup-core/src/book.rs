//! The book of a pool: which superchunk serves an allocation, and for whom.
//!
//! What is guaranteed:
//!
//! 1. A chunk has at most one owner. Only that owner's [`Account`] frees, pins or moves it.
//! 2. An allocation takes, in this order: backed memory; backed memory that was about to be given
//!    back; anything else that is free. Among equals it takes the fullest superchunk, so that others
//!    become empty, and in it the lowest place; a single chunk that would have to be zeroed gives way
//!    to one of the next [`LOOKS`](crate::superchunk::LOOKS) that need not.
//! 3. Nothing that is in flight is handed out. Where only that would help, the answer is
//!    [`Refused::Busy`], and it ends with the one request that is under way.
//! 4. What is refused changes nothing.
//! 5. A [`Grant`] names all chunks that may hold bytes of another owner.

use crate::account::{Account, OwnerId};
use crate::bits::Bits512;
use crate::hints::{Extent, Fate, FreeMemory};
use crate::refusal::{NotAttached, NotDetached, NotMoved, NotYours, Refused, TooLarge};
use crate::shelves::{Offer, Shelves};
use crate::superchunk::{Backing, Place, Preference, Superchunk, Violation};
use crate::units::{CHUNKS_PER_SUPERCHUNK, ChunkRun, Chunks, SuperchunkIdx};

/// Where an extent may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// At any chunk.
    Chunk,
    /// At a multiple of its length, rounded up to a power of two.
    Natural,
}

impl Alignment {
    /// The same as a number of chunks.
    pub(crate) const fn of(self, length: usize) -> usize {
        match self {
            Self::Chunk => 1,
            Self::Natural => length.next_power_of_two(),
        }
    }
}

/// What an allocation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The new extent.
    pub extent: ChunkRun,
    /// The places in its superchunk of chunks that may hold bytes of another owner. They have to be
    /// zeroed before anybody else sees them.
    pub foreign: Bits512,
    /// The places in its superchunk of chunks behind which no memory stood so far.
    pub cold: Bits512,
}

/// An extent's move from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The extent that moves.
    pub from: ChunkRun,
    /// Where it goes.
    pub to: ChunkRun,
}

/// The book of a pool, over storage that the caller provides: one [`Superchunk`] for each GiB of
/// addresses, most of which need not be part of the pool.
#[derive(Clone, Debug)]
pub struct PoolBook<S> {
    superchunks: S,
    shelves: Shelves,
}

/// Bytes of bookkeeping that a pool needs whatever its size.
pub const BYTES_PER_POOL: usize = size_of::<PoolBook<()>>();

impl<S: AsRef<[Superchunk]> + AsMut<[Superchunk]>> PoolBook<S> {
    /// The book of a pool that has nothing yet. What the storage says is overwritten.
    ///
    /// # Errors
    /// The storage is for more superchunks than a `u32` counts.
    pub fn new(mut storage: S) -> Result<Self, TooLarge> {
        let superchunks = storage.as_mut();
        if superchunks.len().checked_sub(1).is_some_and(|last| Place::new(last).is_none()) {
            return Err(TooLarge { superchunks: superchunks.len() });
        }
        superchunks.fill(Superchunk::default());
        Ok(Self { superchunks: storage, shelves: Shelves::default() })
    }

    /// All superchunks that the pool could have, by index.
    #[must_use]
    pub fn superchunks(&self) -> &[Superchunk] {
        self.superchunks.as_ref()
    }

    /// The superchunk at a position, whether it is part of the pool or not; `None` past the end of the
    /// storage.
    #[must_use]
    pub fn superchunk(&self, at: SuperchunkIdx) -> Option<&Superchunk> {
        self.superchunks().get(usize::try_from(at.0).ok()?)
    }

    /// A superchunk that came from the source becomes part of the pool.
    ///
    /// # Errors
    /// It is part of it already, or past the end of the storage.
    pub fn attach(&mut self, at: SuperchunkIdx, backing: Backing) -> Result<(), NotAttached> {
        let refused = NotAttached { superchunk: at };
        let place = self.place(at).ok_or(refused)?;
        let superchunk = &mut self.superchunks.as_mut()[place.index()];
        if superchunk.present {
            return Err(refused);
        }
        *superchunk = Superchunk::attached(backing);
        self.shelves.settle(place, self.superchunks.as_mut());
        Ok(())
    }

    /// A superchunk of which no chunk is handed out or in flight leaves the pool, to go back to the
    /// source.
    ///
    /// # Errors
    /// It is in use, or not part of the pool.
    pub fn detach(&mut self, at: SuperchunkIdx) -> Result<(), NotDetached> {
        let place = self.present(at).ok_or(NotDetached::Absent(at))?;
        let superchunk = &self.superchunks()[place.index()];
        if !superchunk.is_takeable(0..CHUNKS_PER_SUPERCHUNK) {
            return Err(NotDetached::InUse(at));
        }
        self.change(place, |superchunk| {
            let link = superchunk.link;
            *superchunk = Superchunk::default();
            superchunk.link = link;
        });
        Ok(())
    }

    /// Hands out `length` chunks in a row of one superchunk. One chunk takes constant time; more may
    /// look at every superchunk with so much room, 1 µs each at most.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn allocate(
        &mut self,
        account: &mut Account,
        length: Chunks,
        alignment: Alignment,
    ) -> Result<Grant, Refused> {
        account.admit(length)?;
        let size = usize::try_from(length.0).unwrap_or(usize::MAX);
        if !(1..=CHUNKS_PER_SUPERCHUNK).contains(&size) {
            return Err(Refused::Length(length));
        }
        let (place, start) = match self.find(size, alignment) {
            Some(found) => found,
            None => return Err(self.no_room(size, alignment)),
        };
        let owner = account.owner();
        let start = match size {
            1 => self.superchunks()[place.index()].prefer_own(start, owner),
            _ => start,
        };
        let slots = start..start + size;
        let extent = ChunkRun::at(index_of(place), &slots);
        let (foreign, cold) = self.change(place, |superchunk| superchunk.take(slots, owner));
        account.charge(length);
        Ok(Grant { extent, foreign, cold })
    }

    /// Takes back what was handed out and never used: nothing stands behind what was cold, and what
    /// was foreign was not zeroed.
    ///
    /// # Errors
    /// It is no extent of this owner, or pinned.
    pub fn cancel(&mut self, account: &mut Account, grant: &Grant) -> Result<(), NotYours> {
        let Grant { extent, foreign, cold } = grant;
        let place = self.movable(account.owner(), *extent)?;
        self.change(place, |superchunk| superchunk.untake(extent.slots(), foreign, cold));
        account.refund(extent.length());
        Ok(())
    }

    /// Takes back an extent. It stays backed, and its bytes stay what they are.
    ///
    /// # Errors
    /// It is no extent of this owner, or pinned.
    pub fn free(&mut self, account: &mut Account, extent: ChunkRun) -> Result<(), NotYours> {
        let place = self.movable(account.owner(), extent)?;
        self.change(place, |superchunk| superchunk.release(extent.slots()));
        account.refund(extent.length());
        Ok(())
    }

    /// Makes two extents of one: its first `length` chunks, and the rest. Says where they are.
    ///
    /// # Errors
    /// It is no extent of this owner, or pinned, or one of the two would have nothing.
    pub fn split(
        &mut self,
        account: &Account,
        extent: ChunkRun,
        length: Chunks,
    ) -> Result<(ChunkRun, ChunkRun), NotYours> {
        let place = self.movable(account.owner(), extent)?;
        let rest = extent.length().saturating_sub(length);
        let parts = ChunkRun::new(extent.start(), length)
            .zip(ChunkRun::new(extent.start() + length, rest))
            .ok_or(NotYours::NoExtent(extent))?;
        self.change(place, |superchunk| superchunk.split(parts.1.slots().start));
        Ok(parts)
    }

    /// Keeps an extent from being moved or freed, because something else refers to its memory.
    /// Pinning again changes nothing: pins are not counted.
    ///
    /// # Errors
    /// It is no extent of this owner.
    pub fn pin(&mut self, account: &Account, extent: ChunkRun) -> Result<(), NotYours> {
        let place = self.owned(account.owner(), extent)?;
        self.change(place, |superchunk| superchunk.pin(extent.slots()));
        Ok(())
    }

    /// Ends what [`pin`](Self::pin) began.
    ///
    /// # Errors
    /// It is no extent of this owner.
    pub fn unpin(&mut self, account: &Account, extent: ChunkRun) -> Result<(), NotYours> {
        let place = self.owned(account.owner(), extent)?;
        self.change(place, |superchunk| superchunk.unpin(extent.slots()));
        Ok(())
    }

    /// Sets the target of a move apart: from now until [`finish_move`](Self::finish_move) or
    /// [`cancel_move`](Self::cancel_move) the owner has both extents, but is charged for one. As all
    /// of the target is going to be overwritten, nothing has to be zeroed.
    ///
    /// # Errors
    /// See [`NotMoved`]: what was planned may have changed since.
    pub fn begin_move(&mut self, owner: OwnerId, step: Move) -> Result<Grant, NotMoved> {
        self.movable(owner, step.from)?;
        let place = self.present(step.to.superchunk());
        let target = place.filter(|place| {
            self.superchunks()[place.index()].is_takeable(step.to.slots())
                && step.to.length() == step.from.length()
        });
        let place = target.ok_or(NotMoved::Target(step.to))?;
        let slots = step.to.slots();
        let (foreign, cold) = self.change(place, |superchunk| superchunk.take(slots, owner));
        Ok(Grant { extent: step.to, foreign, cold })
    }

    /// Frees where the extent was, now that its bytes are in the target.
    ///
    /// # Errors
    /// It was freed or pinned meanwhile: cancel the move instead.
    pub fn finish_move(&mut self, owner: OwnerId, step: Move) -> Result<(), NotYours> {
        let place = self.movable(owner, step.from)?;
        self.change(place, |superchunk| superchunk.release(step.from.slots()));
        Ok(())
    }

    /// Frees the target again, as [`cancel`](Self::cancel) does: where it was cold, nothing stands
    /// behind it any more.
    ///
    /// # Errors
    /// It is no target of this owner's.
    pub fn cancel_move(&mut self, owner: OwnerId, target: &Grant) -> Result<(), NotYours> {
        let Grant { extent, foreign, cold } = target;
        let place = self.movable(owner, *extent)?;
        self.change(place, |superchunk| superchunk.untake(extent.slots(), foreign, cold));
        Ok(())
    }

    /// Counts the chunks that an owner has, targets of moves under way included: the truth behind
    /// [`Account::used`]. Looks at every chunk.
    #[must_use]
    pub fn held_by(&self, owner: OwnerId) -> Chunks {
        let held = |superchunk: &Superchunk| {
            (0..CHUNKS_PER_SUPERCHUNK).filter(|&slot| superchunk.owner(slot) == Some(owner)).count()
        };
        Chunks(self.superchunks().iter().map(held).sum::<usize>() as u64)
    }

    /// Checks all that is kept twice, and that every state is [legal](crate::superchunk). Looks at
    /// every chunk.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Violation> {
        for (index, superchunk) in self.superchunks().iter().enumerate() {
            let Some(place) = Place::new(index) else { continue };
            superchunk.validate(index_of(place))?;
            if !self.shelves.holds(place, self.superchunks()) {
                return Err(Violation::Shelf(index_of(place)));
            }
        }
        if self.shelves.are_marked() { Ok(()) } else { Err(Violation::Summary) }
    }

    /// The best place for an extent: the superchunk's, and in it.
    fn find(&self, length: usize, alignment: Alignment) -> Option<(Place, usize)> {
        use Offer::{Cold, Waiting, Warm};
        let all: [(Preference, &[Offer]); 3] = [
            (Preference::Warm, &[Warm]),
            (Preference::Backed, &[Warm, Waiting]),
            (Preference::Takeable, &[Warm, Waiting, Cold]),
        ];
        let superchunks = self.superchunks();
        all.into_iter().find_map(|(preference, offers)| {
            offers.iter().find_map(|&offer| {
                self.shelves.fullest(superchunks, offer, length).find_map(|place| {
                    let superchunk = &superchunks[place.index()];
                    let start = superchunk.find(preference, length, alignment.of(length))?;
                    Some((place, start))
                })
            })
        })
    }

    /// Why there is no place for an extent. Looks at every superchunk.
    fn no_room(&self, length: usize, alignment: Alignment) -> Refused {
        let waits_for = |superchunk: &Superchunk| {
            let start = superchunk.find(Preference::Eventually, length, alignment.of(length));
            superchunk.is_present() && superchunk.has_in_flight() && start.is_some()
        };
        if self.superchunks().iter().any(waits_for) {
            return Refused::Busy;
        }
        let free = self.superchunks().iter().map(|superchunk| superchunk.tally().takeable as u64);
        Refused::Exhausted { asked: Chunks(length as u64), free: Chunks(free.sum()) }
    }

    /// The place of an owner's extent.
    fn owned(&self, owner: OwnerId, extent: ChunkRun) -> Result<Place, NotYours> {
        let place = self.present(extent.superchunk()).ok_or(NotYours::NoExtent(extent))?;
        let superchunk = &self.superchunks()[place.index()];
        if !superchunk.is_extent(&extent.slots()) {
            return Err(NotYours::NoExtent(extent));
        }
        match superchunk.owner(extent.start().slot()) {
            Some(actual) if actual != owner => Err(NotYours::Others { extent, owner: actual }),
            _ => Ok(place),
        }
    }

    /// The same, if it may leave its place.
    fn movable(&self, owner: OwnerId, extent: ChunkRun) -> Result<Place, NotYours> {
        let place = self.owned(owner, extent)?;
        if self.superchunks()[place.index()].is_pinned(extent.slots()) {
            return Err(NotYours::Pinned(extent));
        }
        Ok(place)
    }

    fn place(&self, at: SuperchunkIdx) -> Option<Place> {
        let index = usize::try_from(at.0).ok()?;
        if index < self.superchunks().len() { Place::new(index) } else { None }
    }

    fn present(&self, at: SuperchunkIdx) -> Option<Place> {
        self.place(at).filter(|place| self.superchunks()[place.index()].present)
    }

    /// Changes a superchunk, and puts it on the shelf where it then belongs.
    fn change<R>(&mut self, place: Place, apply: impl FnOnce(&mut Superchunk) -> R) -> R {
        let superchunks = self.superchunks.as_mut();
        let result = apply(&mut superchunks[place.index()]);
        self.shelves.settle(place, superchunks);
        result
    }

    /// The superchunk of freed memory that is to be given back, if it is the pool's.
    fn place_of(&self, extent: Extent) -> Option<(Place, ChunkRun)> {
        let run = extent.run()?;
        Some((self.present(run.superchunk())?, run))
    }
}

/// Freed memory of [orders](Extent) from a chunk to a superchunk can be given back.
impl<S: AsRef<[Superchunk]> + AsMut<[Superchunk]>> FreeMemory for PoolBook<S> {
    fn isolate(&mut self, extent: Extent) -> bool {
        self.place_of(extent).is_some_and(|(place, run)| {
            self.change(place, |superchunk| superchunk.isolate(run.slots()))
        })
    }

    fn restore(&mut self, extent: Extent) {
        if let Some((place, run)) = self.place_of(extent) {
            self.change(place, |superchunk| superchunk.restore(run.slots()));
        }
    }

    fn send(&mut self, extent: Extent) -> bool {
        self.place_of(extent).is_some_and(|(place, run)| {
            self.change(place, |superchunk| superchunk.send(run.slots()))
        })
    }

    fn settle(&mut self, extent: Extent, fate: Fate) {
        if let Some((place, run)) = self.place_of(extent) {
            self.change(place, |superchunk| superchunk.settle(run.slots(), fate));
        }
    }
}

fn index_of(place: Place) -> SuperchunkIdx {
    SuperchunkIdx(place.index() as u64)
}
