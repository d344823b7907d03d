//! Who has memory of a pool.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use recoup_core::units::{CHUNK_BYTES, PAGES_PER_CHUNK, Pages};
use recoup_core::{Account, Alignment, ChunkRun, Chunks, OwnerId};
use recoup_sys::Bytes;
use recoup_sys::numa::Node;

use super::Shared;
use super::desks::Desks;
use super::error::{Error, Result};
use super::extent::{Extent, Place};
use super::mapping::Span;
use super::movable::Cell;
use super::spares::Spares;
use super::zone::{Granted, Zone};
use super::zones::{Key, Movability};

/// Somebody who has memory of a pool: an arena, a tenant, a virtual machine. A clone is the same
/// owner.
///
/// Only through its extents can anybody reach an owner's memory. What one owner frees, another gets
/// zeroed; itself it gets it back as it was.
///
/// Threads that share an owner wait for each other for some 10 ns at a time, or 1 us where the book is
/// asked. Threads that have an owner each meet only once in 8 chunks, and not at all if these owners
/// have [gigabytes of their own](OwnerOptions::apart).
#[derive(Clone, Debug)]
pub struct Owner(pub(super) Arc<Holder>);

/// What an owner may have, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerOptions {
    quota: Option<Bytes>,
    node: Option<Node>,
    apart: Apart,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Apart {
    #[default]
    No,
    Yes,
}

impl OwnerOptions {
    /// At most so much memory, rounded down to chunks. Without a quota it may have all of the pool.
    #[must_use]
    pub fn quota(self, quota: Bytes) -> Self {
        Self { quota: Some(quota), ..self }
    }

    /// Memory of this NUMA node only ([`nodes_with_memory`](crate::nodes_with_memory) lists them). The
    /// kernel ignores this for [files](super::External) that are not on tmpfs.
    #[must_use]
    pub fn node(self, node: Node) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Gigabytes of its own, of which nobody else gets any before they went back to the source. The
    /// pool then keeps books for this owner, which take 2.5 KiB for each gigabyte of the pool's limit,
    /// and as many addresses as the limit.
    #[must_use]
    pub fn apart(self) -> Self {
        Self { apart: Apart::Yes, ..self }
    }

    fn limit(self) -> Chunks {
        self.quota.map_or(Chunks(u64::MAX), whole_chunks)
    }

    fn key(self, id: OwnerId, movability: Movability) -> Key {
        Key { movability, node: self.node, of: (self.apart == Apart::Yes).then_some(id) }
    }
}

/// A quota, in what it counts.
fn whole_chunks(quota: Bytes) -> Chunks {
    Chunks(quota.0 / CHUNK_BYTES)
}

/// What the handles of an owner share. On cache lines of its own, so that owners of different
/// threads do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Holder {
    local: Mutex<Local>,
    id: OwnerId,
    /// Where its extents are.
    zone: Arc<Zone>,
    /// Where those are that may move, if it has any.
    movables: OnceLock<Arc<Zone>>,
    options: OwnerOptions,
    pub(super) pool: Arc<Shared>,
}

/// What an owner keeps for itself.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) account: Account,
    pub(super) spares: Spares,
    pub(super) desks: Desks,
    /// Whether spares went in or out since somebody last looked.
    pub(super) is_active: bool,
}

impl Owner {
    pub(super) fn new(pool: Arc<Shared>, id: OwnerId, options: OwnerOptions) -> Result<Self> {
        let zone = pool.zone(options.key(id, Movability::Fixed))?;
        let local = Mutex::new(Local {
            account: Account::new(id, options.limit()),
            spares: Spares::default(),
            desks: Desks::default(),
            is_active: false,
        });
        let movables = OnceLock::new();
        Ok(Self(Arc::new(Holder { local, id, zone, movables, options, pool })))
    }

    /// A chunk of 2 MiB. Costs some 20 ns if this owner has freed one lately, 100 ns if others have not
    /// used it since, 50 us or more if it has to be zeroed.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted.
    #[inline]
    pub fn chunk(&self) -> Result<Extent> {
        let (span, run) = match self.0.take_spare() {
            Some(spare) => spare,
            None => self.0.fetch()?,
        };
        Ok(self.extent(span, Place::Chunks(run)))
    }

    /// So many chunks in a row, aligned to their length rounded up to a power of two: from 1 to 512.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted; or no extent has that length.
    pub fn chunks(&self, length: Chunks) -> Result<Extent> {
        let granted = self.0.run(length)?;
        Ok(self.extent(granted.span, Place::Chunks(granted.grant.extent)))
    }

    /// A gigabyte.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted.
    pub fn gigabyte(&self) -> Result<Extent> {
        self.chunks(Chunks::SUPERCHUNK)
    }

    /// So many pages of 4 KiB in a row, aligned to their length rounded up to a power of two: from 1
    /// to 512. The quota counts the chunks that they are from.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted; or no extent has that length.
    pub fn pages(&self, length: Pages) -> Result<Extent> {
        if !(1..=PAGES_PER_CHUNK as u64).contains(&length.0) {
            return Err(Error::pages(length.0));
        }
        if !self.0.is_here() {
            return Err(Error::Child);
        }
        let found = self.0.local().desks.take(length);
        let (span, at) = match found {
            Some(found) => found,
            None => {
                let chunk = self.0.take_spare().map_or_else(|| self.0.fetch(), Ok)?;
                let opened = self.0.local().desks.open(chunk, length);
                opened.map_err(|(span, run)| {
                    self.0.release(span, Place::Chunks(run));
                    Error::pages(length.0)
                })?
            }
        };
        Ok(self.extent(span, Place::Pages(at)))
    }

    /// Its number in reports.
    #[must_use]
    pub fn id(&self) -> OwnerId {
        self.0.id
    }

    /// What its extents take, and chunks of which pages are handed out.
    #[must_use]
    pub fn used(&self) -> Bytes {
        let local = self.0.local();
        Bytes(local.account.used().saturating_sub(local.spares.count()).bytes())
    }

    /// Changes how much it may have. What it has beyond that it keeps.
    pub fn set_quota(&self, quota: Bytes) {
        self.0.local().account.set_limit(whole_chunks(quota));
        // They were within the old one.
        self.0.give_up_spares();
    }

    pub(super) fn extent(&self, span: Span, place: Place) -> Extent {
        Extent::new(Arc::clone(&self.0), span, place)
    }
}

impl Holder {
    pub(super) fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> OwnerId {
        self.id
    }

    pub(super) fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// Where its extents are that may move.
    pub(super) fn movables(&self) -> Result<&Arc<Zone>> {
        if let Some(zone) = self.movables.get() {
            return Ok(zone);
        }
        let zone = self.pool.zone(self.options.key(self.id, Movability::Movable))?;
        Ok(self.movables.get_or_init(|| zone))
    }

    /// The chunk that was freed last.
    #[inline]
    pub(super) fn take_spare(&self) -> Option<(Span, ChunkRun)> {
        if !self.is_here() {
            return None;
        }
        let mut local = self.local();
        local.is_active = true;
        local.spares.take()
    }

    /// A chunk from the zone.
    fn fetch(&self) -> Result<(Span, ChunkRun)> {
        let granted =
            self.hand_out(&self.zone, |local| local.spares.fetch(&self.zone, &mut local.account))?;
        Ok((granted.span, granted.grant.extent))
    }

    /// Chunks in a row.
    pub(super) fn run(&self, length: Chunks) -> Result<Granted> {
        self.hand_out(&self.zone, |local| {
            self.zone.allocate(&mut local.account, length, Alignment::Natural)
        })
    }

    /// An extent that `grant` gets from a zone, ready for use. Tries once more after all that is kept at
    /// hand went back, if it was for want of room.
    fn hand_out(
        &self,
        zone: &Zone,
        mut grant: impl FnMut(&mut Local) -> Result<Granted>,
    ) -> Result<Granted> {
        if !self.pool.is_here() {
            return Err(Error::Child);
        }
        let mut once = || {
            let mut granted = grant(&mut self.local())?;
            // Fetching and zeroing take long: nobody waits for that.
            match zone.prepare(&mut granted) {
                Ok(()) => Ok(granted),
                Err(error) => {
                    zone.cancel(&mut self.local().account, [granted]);
                    Err(error)
                }
            }
        };
        match once() {
            Err(Error::Quota(_)) => self.give_up_spares(),
            Err(Error::Full { .. }) => self.pool.make_room(),
            Err(Error::Source { .. }) => drop(self.pool.give_back_all()),
            done => return done,
        }
        once()
    }

    /// An extent that may move, known by this handle.
    pub(super) fn movable(&self, length: Chunks, cell: &Arc<Cell>) -> Result<(Span, ChunkRun)> {
        let zone = self.movables()?;
        let granted =
            self.hand_out(zone, |local| zone.allocate_movable(&mut local.account, length, cell))?;
        Ok((granted.span, granted.grant.extent))
    }

    /// Whether this process has its memory. A forked child that has not takes no lock either: another
    /// thread may have held it at the time of the fork, and nobody opens it here.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        self.zone.mapping().is_of_this_process()
    }

    /// Puts spare chunks back into the book.
    pub(super) fn give_up_spares(&self) {
        if !self.is_here() {
            return;
        }
        let local = &mut *self.local();
        let pending = local.spares.give_up(&self.zone, &mut local.account);
        self.pool.bell.freed(pending);
    }

    /// Takes an extent back.
    #[inline]
    pub(super) fn release(&self, span: Span, place: Place) {
        if !self.is_here() {
            return;
        }
        let local = &mut *self.local();
        local.is_active = true;
        let (span, run) = match place {
            Place::Chunks(run) => (span, run),
            Place::Pages(at) => match local.desks.put(at) {
                Some(chunk) => chunk,
                None => return,
            },
        };
        let pending = if run.length() == Chunks(1) {
            local.spares.put((span, run), &self.zone, &mut local.account).unwrap_or(0)
        } else {
            self.zone.free(&mut local.account, [(span, run)])
        };
        self.pool.bell.freed(pending);
    }

    /// Takes an extent back that could be moved.
    pub(super) fn release_movable(&self, zone: &Zone, span: Span, run: ChunkRun) {
        let local = &mut *self.local();
        let pending = zone.free(&mut local.account, [(span, run)]);
        self.pool.bell.freed(pending);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if !self.is_here() {
            return;
        }
        self.give_up_spares();
        if self.options.apart == Apart::Yes {
            // While others still find the zones: they wait for what is going back.
            [Some(&self.zone), self.movables.get()].into_iter().flatten().for_each(|zone| {
                zone.detach_unused();
            });
        }
        // Nobody finds its lock any more.
        self.pool.bell.ring();
    }
}
