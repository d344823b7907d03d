//! Memory that may be moved: reached through a handle, never by its address.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use recoup_core::{ChunkIdx, ChunkRun, Chunks, OwnerId};
use recoup_sys::Bytes;

use super::error::{Error, Result};
use super::extent::Extent;
use super::mapping::Span;
use super::owner::{Holder, Owner};
use super::zone::Zone;

/// Memory of an owner that a [compaction](super::Pool::compact) may move. Dropping it frees it.
///
/// Whoever reads or writes it keeps it where it is meanwhile; a compaction passes over it then.
pub struct Movable {
    holder: Arc<Holder>,
    zone: Arc<Zone>,
    cell: Arc<Cell>,
    length: Chunks,
}

/// Where a movable extent is at the moment, known to its handle and to its zone.
#[derive(Debug)]
pub(super) struct Cell {
    owner: OwnerId,
    /// Nothing before it is ready, and once it is freed.
    pub(super) held: RwLock<Option<(Span, ChunkRun)>>,
}

impl Cell {
    /// What an extent that may move takes in memory: this, the counts of who shares it, and its place in the
    /// zone's tree, whose nodes may be half full.
    pub(super) const BYTES: usize = size_of::<Self>()
        + 2 * size_of::<usize>()
        + 2 * (size_of::<ChunkIdx>() + size_of::<Arc<Self>>());

    pub(super) fn owner(&self) -> OwnerId {
        self.owner
    }
}

/// A movable extent was not pinned, and is what it was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotPinned {
    /// The extent.
    pub movable: Movable,
    /// Why.
    pub error: Error,
}

impl Owner {
    /// Memory that may be moved: so many chunks, from 1 to 512. Costs a microsecond more than memory
    /// that stays where it is.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted; or no extent has that length.
    pub fn movable(&self, length: Chunks) -> Result<Movable> {
        let holder = Arc::clone(&self.0);
        let zone = Arc::clone(holder.movables()?);
        // A compaction passes over what is empty, as it does over what is in use.
        let cell = Arc::new(Cell { owner: holder.id(), held: RwLock::new(None) });
        let held = holder.movable(length, &cell)?;
        *cell.held.write().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(Movable { holder, zone, cell, length })
    }
}

impl Movable {
    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Bytes {
        Bytes(self.length.bytes())
    }

    /// Its bytes, which stay where they are until this is dropped.
    #[must_use]
    pub fn read(&self) -> Reading<'_> {
        Reading(self.cell.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same to be changed, when nobody else reads or writes it.
    #[must_use]
    pub fn write(&self) -> Writing<'_> {
        Writing(self.cell.held.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves it once to where extents stay: for memory that is registered with io_uring, RDMA or VFIO, or
    /// whose address somebody keeps. Both places count for the quota meanwhile.
    ///
    /// # Errors
    /// There is no room for it. It comes back as it was.
    pub fn pin(self) -> std::result::Result<Extent, Box<NotPinned>> {
        match Owner(Arc::clone(&self.holder)).chunks(self.length) {
            Ok(mut pinned) => {
                pinned.copy_from_slice(&self.read());
                Ok(pinned)
            }
            Err(error) => Err(Box::new(NotPinned { movable: self, error })),
        }
    }
}

impl Drop for Movable {
    fn drop(&mut self) {
        if !self.holder.is_here() {
            return;
        }
        let mut held = self.cell.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((span, run)) = held.take() {
            self.holder.release_movable(&self.zone, span, run);
        }
    }
}

impl fmt::Debug for Movable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Movable({} chunks of {})", self.length.0, self.holder.id())
    }
}

/// The bytes of a [`Movable`], to be read.
#[derive(Debug)]
pub struct Reading<'a>(RwLockReadGuard<'a, Option<(Span, ChunkRun)>>);

impl Deref for Reading<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |(span, _)| span.as_slice())
    }
}

/// The bytes of a [`Movable`], to be changed.
#[derive(Debug)]
pub struct Writing<'a>(RwLockWriteGuard<'a, Option<(Span, ChunkRun)>>);

impl Deref for Writing<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |(span, _)| span.as_slice())
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |(span, _)| span.as_mut_slice())
    }
}
