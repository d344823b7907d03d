//! A part of a pool that is kept by itself: addresses, the book of what is there, and hints of what
//! was freed.
//!
//! A pool has a zone for extents that stay where they are and one for those that may move, for each
//! NUMA node that was asked for. An owner may have zones of its own. Memory goes from one zone to
//! another only through the source.

#![expect(unsafe_code, reason = "what the book says becomes a right to memory here")]

mod gigabytes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use recoup_core::bits::Bits512;
use recoup_core::book::Grant;
use recoup_core::hints::{HintMap, Word};
use recoup_core::refusal::{NotYours, Refused};
use recoup_core::superchunk as book;
use recoup_core::units::{CHUNK_BYTES, CHUNK_ORDER, SUPERCHUNK_ORDER};
use recoup_core::{Account, Alignment, ChunkIdx, ChunkRun, Chunks, PoolBook};
use recoup_core::{Superchunk, SuperchunkIdx};
use recoup_sys::numa::Node;
use recoup_sys::own::{self, Backing};

use super::budget::Budget;
use super::error::{Error, Result};
use super::mapping::{self, CHUNK, Mapping, Span};
use super::movable::Cell;
use super::source::{Arrival, Gigabyte, Kind, Returns, Source};
use super::transit::Transit;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Zone {
    mapping: Mapping,
    source: Arc<dyn Source>,
    kind: Kind,
    budget: Arc<Budget>,
    pub(super) transit: Arc<Transit>,
    /// Of which node its memory has to be.
    node: Option<Node>,
    state: Mutex<State>,
    /// An extent that was being given back is settled.
    settled: Condvar,
    pub(super) hints: HintMap<Box<[Word]>>,
}

pub(super) type Book = PoolBook<Box<[Superchunk]>>;

/// What a zone's lock guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) book: Book,
    /// What stands behind each superchunk that is part of the zone.
    gigabytes: BTreeMap<SuperchunkIdx, Gigabyte>,
    /// Superchunks that are part of the zone no more, but not yet unmapped.
    departing: BTreeSet<SuperchunkIdx>,
    /// The handles of extents that may move, by the first chunk.
    pub(super) movables: BTreeMap<ChunkIdx, Arc<Cell>>,
}

/// An extent that was handed out, and what has to be done before it is used.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) span: Span,
    pub(super) grant: Grant,
}

impl Zone {
    pub(super) fn new(
        source: Arc<dyn Source>,
        budget: Arc<Budget>,
        transit: Arc<Transit>,
        node: Option<Node>,
    ) -> Result<Self> {
        let kind = source.kind();
        let superchunks = budget.limit();
        let map = |error| Error::Source { name: kind.name, advice: ADDRESSES, source: error };
        let mapping = Mapping::reserve(superchunks, kind.forking).map_err(map)?;
        let storage = (0..superchunks).map(|_| Superchunk::default()).collect();
        let words = hints_of(kind, superchunks).div_ceil(u64::BITS.into());
        let hints = HintMap::new((0..words).map(|_| Word::new(0)).collect());
        let book = PoolBook::new(storage).map_err(|_| Error::Full {
            asked: Chunks::SUPERCHUNK,
            free: Chunks::ZERO,
            limit: budget.limit_bytes(),
        })?;
        let state = Mutex::new(State {
            book,
            gigabytes: BTreeMap::new(),
            departing: BTreeSet::new(),
            movables: BTreeMap::new(),
        });
        let settled = Condvar::new();
        Ok(Self { mapping, source, kind, budget, transit, node, state, settled, hints })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What stands behind a superchunk.
    #[cfg(feature = "vm")]
    pub(super) fn gigabyte(&self, at: SuperchunkIdx) -> Option<Gigabyte> {
        self.state().gigabytes.get(&at).cloned()
    }

    /// How its memory is given back.
    pub(super) fn backing(&self, at: SuperchunkIdx) -> Backing {
        self.state()
            .gigabytes
            .get(&at)
            .map_or(Backing::Private, |gigabyte| gigabyte.memory().into())
    }

    /// Hands out an extent, from another gigabyte of the source if need be.
    pub(super) fn allocate(
        &self,
        account: &mut Account,
        length: Chunks,
        alignment: Alignment,
    ) -> Result<Granted> {
        self.allocate_noting(account, length, alignment, |_, _| ())
    }

    /// Hands out an extent that may move, of which the zone keeps this handle.
    pub(super) fn allocate_movable(
        &self,
        account: &mut Account,
        length: Chunks,
        cell: &Arc<Cell>,
    ) -> Result<Granted> {
        self.allocate_noting(account, length, Alignment::Natural, |state, grant| {
            state.movables.insert(grant.extent.start(), Arc::clone(cell));
        })
    }

    /// Does something under the lock under which the extent is handed out.
    fn allocate_noting(
        &self,
        account: &mut Account,
        length: Chunks,
        alignment: Alignment,
        note: impl FnOnce(&mut State, &Grant),
    ) -> Result<Granted> {
        let mut state = self.state();
        loop {
            match state.book.allocate(account, length, alignment) {
                Ok(grant) => {
                    note(&mut state, &grant);
                    return Ok(self.granted(grant));
                }
                Err(Refused::Busy) => {
                    state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Err(Refused::Exhausted { asked, free }) => {
                    self.grow(
                        &mut state,
                        Error::Full { asked, free, limit: self.budget.limit_bytes() },
                    )?;
                }
                Err(Refused::Quota(exceeded)) => return Err(exceeded.into()),
                Err(Refused::Length(length)) => return Err(Error::chunks(length)),
            }
        }
    }

    /// Hands out up to so many single chunks of what the zone has, under one lock.
    pub(super) fn allocate_more(
        &self,
        account: &mut Account,
        at_most: usize,
        mut take: impl FnMut(Granted),
    ) {
        let mut state = self.state();
        for _ in 0..at_most {
            match state.book.allocate(account, Chunks(1), Alignment::Chunk) {
                Ok(grant) => take(self.granted(grant)),
                Err(_) => return,
            }
        }
    }

    /// The bytes of what the book has just handed out.
    pub(super) fn granted(&self, grant: Grant) -> Granted {
        // SAFETY: the book gives a chunk of the pool to one owner at a time, and takes it back only
        // by `free` or `cancel`, which consume the span, or by a move, which replaces it. Whoever
        // has a span keeps the zone.
        let span = unsafe { self.mapping.span(grant.extent) };
        Granted { span, grant }
    }

    /// Makes an extent ready for its owner: fetches what does not come by itself, and zeroes what
    /// others have left. Costs 50 us or more a chunk where one of the two is to be done, so nobody calls
    /// it under a lock.
    ///
    /// # Errors
    /// There is no memory. The extent has to be cancelled then.
    pub(super) fn prepare(&self, granted: &mut Granted) -> Result<()> {
        self.fetch(&granted.grant)?;
        let run = granted.grant.extent;
        for place in granted.grant.foreign.ones() {
            let start = (place - run.slots().start) * CHUNK;
            granted.span.as_mut_slice()[start..start + CHUNK].fill(0);
        }
        Ok(())
    }

    /// Puts memory behind an extent, if the source wants that.
    pub(super) fn fetch(&self, grant: &Grant) -> Result<()> {
        self.to_fetch(grant).runs().try_for_each(|slots| {
            let run = mapping::part(grant.extent.superchunk(), slots);
            own::populate(self.mapping.pages(run)).map_err(|error| self.refused(error))
        })
    }

    /// Where memory has to be fetched: behind cold chunks, and behind those that strangers have left,
    /// as a file may have holes there.
    fn to_fetch(&self, grant: &Grant) -> Bits512 {
        match (self.kind.arrival, self.kind.backing) {
            (Arrival::OnTouch, _) => Bits512::EMPTY,
            (Arrival::Fetched, book::Backing::Used) => grant.cold | grant.foreign,
            (Arrival::Fetched, _) => grant.cold,
        }
    }

    /// Takes back extents that nobody has used.
    pub(super) fn cancel(&self, account: &mut Account, granted: impl IntoIterator<Item = Granted>) {
        for Granted { span: _, grant } in granted {
            self.take_back(&grant, |book| book.cancel(account, &grant));
        }
    }

    /// Takes back an extent that nobody has used, as `strike_off` does in the book.
    pub(super) fn take_back(
        &self,
        grant: &Grant,
        strike_off: impl FnOnce(&mut Book) -> std::result::Result<(), NotYours>,
    ) {
        self.drop_fetched(grant);
        let mut state = self.state();
        state.movables.remove(&grant.extent.start());
        let result = strike_off(&mut state.book);
        debug_assert!(result.is_ok(), "an extent that was just handed out: {result:?}");
        drop(state);
        // The hints of what was warm, here or next to it in the same page, may have been followed while
        // this was taken. A hint of what turns out to be cold costs next to nothing.
        self.hint(grant.extent);
    }

    /// What could be fetched goes back: it counts as cold, or as a stranger's.
    fn drop_fetched(&self, grant: &Grant) {
        let superchunk = grant.extent.superchunk();
        let backing = self.backing(superchunk);
        for slots in self.to_fetch(grant).runs() {
            // SAFETY: the extent is not in use yet, and what is there is nobody's. A hugetlb page of
            // a gigabyte, of which this is only a part, stays.
            let _ = unsafe { self.mapping.discard(mapping::part(superchunk, slots), backing) };
        }
    }

    /// Takes back extents, whose bytes stay what they are. Says how many hints wait now.
    pub(super) fn free(
        &self,
        account: &mut Account,
        extents: impl IntoIterator<Item = (Span, ChunkRun)>,
    ) -> usize {
        let mut pending = 0;
        let mut state = self.state();
        let mut freed = [None; BATCH];
        let mut extents = extents.into_iter();
        loop {
            let mut count = 0;
            for (slot, (_, run)) in freed.iter_mut().zip(extents.by_ref()) {
                state.movables.remove(&run.start());
                let result = state.book.free(account, run);
                debug_assert!(result.is_ok(), "an extent of this owner: {result:?}");
                *slot = Some(run);
                count += 1;
            }
            drop(state);
            for run in freed.iter_mut().filter_map(Option::take) {
                pending = self.hint(run);
            }
            if count < BATCH {
                return pending;
            }
            state = self.state();
        }
    }

    /// Makes two extents of one: its first chunks, and the rest.
    pub(super) fn split(
        &self,
        account: &Account,
        run: ChunkRun,
        length: Chunks,
    ) -> Option<(ChunkRun, ChunkRun)> {
        self.state().book.split(account, run, length).ok()
    }

    /// Hints what was freed, if it can be given back.
    pub(super) fn hint(&self, run: ChunkRun) -> usize {
        if self.kind.returns == Returns::Nothing {
            return 0;
        }
        let shift = return_order(self.kind) - CHUNK_ORDER;
        let index = |chunk: u64| usize::try_from(chunk >> shift).unwrap_or(usize::MAX);
        let ChunkIdx(start) = run.start();
        self.hints.hint(index(start)..index(start + run.length().0 - 1) + 1)
    }

    fn refused(&self, error: recoup_sys::Error) -> Error {
        let advice = match (self.kind.arrival, self.kind.backing) {
            (Arrival::Fetched, book::Backing::Used) => FILES,
            (Arrival::Fetched, _) => HUGETLB,
            (Arrival::OnTouch, book::Backing::Used) => DEVICES,
            (Arrival::OnTouch, _) => ADDRESSES,
        };
        Error::Source { name: self.kind.name, advice, source: error }
    }

    /// How many hints of freed memory there can be: a bit each.
    pub(super) fn most_hints(&self) -> u64 {
        hints_of(self.kind, self.budget.limit())
    }

    /// Gives back the memory behind an extent of free chunks.
    ///
    /// # Safety
    /// The book hands none of it to anybody meanwhile: it was sent, and is not settled.
    pub(super) unsafe fn give_back(&self, run: ChunkRun) -> recoup_sys::Result<()> {
        // SAFETY: promised by the caller.
        unsafe { self.mapping.discard(run, self.backing(run.superchunk())) }
    }

    /// Tells those who wait for it that an extent is settled.
    pub(super) fn tell_settled(&self) {
        self.settled.notify_all();
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        if !self.mapping.is_of_this_process() {
            return;
        }
        let _passage = self.transit.set_out();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (at, gigabyte) in std::mem::take(&mut state.gigabytes) {
            self.unbind(at);
            // SAFETY: extents keep their zone, so there is none.
            if unsafe { self.mapping.detach(at) }.is_ok() {
                self.source.put_back(gigabyte);
            }
            self.budget.put_back();
        }
    }
}

/// Binary logarithm of the pages that are given back at a time.
pub(super) fn return_order(kind: Kind) -> u8 {
    if kind.page.0 > CHUNK_BYTES { SUPERCHUNK_ORDER } else { CHUNK_ORDER }
}

/// How many extents of that order so many superchunks have.
fn hints_of(kind: Kind, superchunks: u64) -> u64 {
    superchunks << (SUPERCHUNK_ORDER - return_order(kind))
}

/// How many extents are freed under one lock.
const BATCH: usize = 16;

const ADDRESSES: &str =
    "make the pool smaller, or raise the limit of the address space (ulimit -v)";
/// For an owner whose node has no memory.
pub(super) const NODES: &str = "name a node with memory: see /sys/devices/system/node/has_memory";
const FILES: &str = "free some of it, or make room on the file system";
const DEVICES: &str = "free some of it, or give the pool more of the device";
const HUGETLB: &str = "free some of it, or set more of these pages apart (recoup pool reserve, or the boot parameter hugepages=)";
