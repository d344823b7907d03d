//! Where an allocation finds a superchunk without a search.
//!
//! Each superchunk of a pool stands on one shelf: by the best memory that it has to offer, and by
//! how many chunks of it can be taken. Shelves are lists through the superchunks themselves, and a
//! bitmap says which of them are not empty. Finding the fullest superchunk with room for one chunk,
//! and moving one to another shelf, take constant time.

use core::iter;

use crate::bits::{Bits, WORD};
use crate::superchunk::{Link, Place, Superchunk};
use crate::units::CHUNKS_PER_SUPERCHUNK;

/// The best memory that a superchunk has to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Backed and at hand.
    Warm,
    /// Backed, but about to be given back.
    Waiting,
    /// Not backed, or none at all.
    Cold,
}

impl Offer {
    const COUNT: usize = Self::Cold as usize + 1;
}

/// A shelf: an offer, and a number of chunks that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shelf {
    offer: Offer,
    takeable: u16,
}

impl Shelf {
    /// Where a superchunk belongs; nowhere if it is not part of the pool.
    fn of(superchunk: &Superchunk) -> Option<Self> {
        let tally = superchunk.tally();
        let offer = match (tally.warm, tally.waiting) {
            (0, 0) => Offer::Cold,
            (0, _) => Offer::Waiting,
            _ => Offer::Warm,
        };
        let takeable = u16::try_from(tally.takeable).ok()?;
        superchunk.is_present().then_some(Self { offer, takeable })
    }
}

/// The shelves for one kind of offer.
#[derive(Clone, Debug)]
struct Row {
    /// Does a superchunk stand on the shelf for so many takeable chunks?
    occupied: Bits<{ CHUNKS_PER_SUPERCHUNK / WORD + 1 }>,
    /// The first superchunk on each.
    first: [Option<Place>; CHUNKS_PER_SUPERCHUNK + 1],
}

/// All shelves of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Shelves {
    rows: [Row; Offer::COUNT],
}

// Once a pool, whatever its size.
const _: () = assert!(size_of::<Shelves>() < 7 << 10);

impl Default for Shelves {
    fn default() -> Self {
        let row = || Row { occupied: Bits::EMPTY, first: [None; CHUNKS_PER_SUPERCHUNK + 1] };
        Self { rows: [row(), row(), row()] }
    }
}

impl Shelves {
    /// Puts a superchunk where it belongs now.
    pub(crate) fn settle(&mut self, place: Place, superchunks: &mut [Superchunk]) {
        let superchunk = &superchunks[place.index()];
        let (now, then) = (Shelf::of(superchunk), superchunk.link.shelf);
        if now != then {
            self.remove(place, superchunks);
            self.put(place, now, superchunks);
        }
    }

    fn remove(&mut self, place: Place, superchunks: &mut [Superchunk]) {
        let Link { shelf, before, after } = superchunks[place.index()].link;
        let Some(shelf) = shelf else { return };
        if let Some(after) = after {
            superchunks[after.index()].link.before = before;
        }
        if let Some(before) = before {
            superchunks[before.index()].link.after = after;
            return;
        }
        let row = &mut self.rows[shelf.offer as usize];
        row.first[usize::from(shelf.takeable)] = after;
        if after.is_none() {
            row.occupied.remove(usize::from(shelf.takeable));
        }
    }

    fn put(&mut self, place: Place, shelf: Option<Shelf>, superchunks: &mut [Superchunk]) {
        let mut after = None;
        if let Some(shelf) = shelf {
            let row = &mut self.rows[shelf.offer as usize];
            row.occupied.insert(usize::from(shelf.takeable));
            after = row.first[usize::from(shelf.takeable)].replace(place);
        }
        if let Some(after) = after {
            superchunks[after.index()].link.before = Some(place);
        }
        superchunks[place.index()].link = Link { shelf, before: None, after };
    }

    /// The superchunks with this offer of which at least so many chunks can be taken, the fullest
    /// first.
    pub(crate) fn fullest<'a>(
        &'a self,
        superchunks: &'a [Superchunk],
        offer: Offer,
        at_least: usize,
    ) -> impl Iterator<Item = Place> + use<'a> {
        let row = &self.rows[offer as usize];
        let occupied = &row.occupied;
        let shelves =
            iter::successors(occupied.next_set(at_least), move |&at| occupied.next_set(at + 1));
        shelves.flat_map(move |takeable| {
            let next = |place: &Place| superchunks[place.index()].link.after;
            iter::successors(row.first[takeable], next)
        })
    }

    /// Whether the bitmaps say which shelves are empty.
    pub(crate) fn are_marked(&self) -> bool {
        self.rows.iter().all(|row| {
            let mut shelves = row.first.iter().enumerate();
            shelves.all(|(takeable, first)| first.is_some() == row.occupied.contains(takeable))
        })
    }

    /// Whether a superchunk stands where it belongs, and its neighbours and shelf know of it.
    pub(crate) fn holds(&self, place: Place, superchunks: &[Superchunk]) -> bool {
        let superchunk = &superchunks[place.index()];
        let Link { shelf, before, after } = superchunk.link;
        let known = match (shelf, before) {
            (None, before) => before.is_none() && after.is_none(),
            (Some(_), Some(before)) => superchunks[before.index()].link.after == Some(place),
            (Some(Shelf { offer, takeable }), None) => {
                let (row, takeable) = (&self.rows[offer as usize], usize::from(takeable));
                row.first[takeable] == Some(place) && row.occupied.contains(takeable)
            }
        };
        shelf == Shelf::of(superchunk) && known
    }
}
