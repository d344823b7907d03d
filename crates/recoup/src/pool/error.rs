//! Why a pool did not do what it was asked to.

use recoup_core::Chunks;
use recoup_core::account::QuotaExceeded;
use recoup_core::units::{CHUNKS_PER_SUPERCHUNK, PAGES_PER_CHUNK};
use recoup_sys::Bytes;

use super::advice::Advice;

/// What a pool refuses. Nothing changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The owner may not have so much.
    #[error("{0}: free some of it, or raise its quota")]
    Quota(#[from] QuotaExceeded),
    /// An extent has from one chunk to a superchunk, and from one page to a chunk.
    #[error("an extent of {asked} {unit} was asked for: it has from 1 to {most}")]
    Length {
        /// How many were asked for.
        asked: u64,
        /// Chunks or pages.
        unit: &'static str,
        /// How many it can have.
        most: u64,
    },
    /// The pool has as many gigabytes as it may have, and no room in them.
    #[error(
        "no room for {} MiB in one piece: {} MiB are free where this kind of extent comes from, and the \
         pool has all of its {} GiB; free memory, compact the pool, or make it larger",
        asked.bytes() >> 20, free.bytes() >> 20, limit.0 >> 30
    )]
    Full {
        /// What was asked for.
        asked: Chunks,
        /// What is free, here and there, in the gigabytes for extents of this kind.
        free: Chunks,
        /// What the pool may have.
        limit: Bytes,
    },
    /// The source has no memory left, or the kernel refuses to map it.
    #[error("{name}: {source}; {advice}")]
    Source {
        /// Which kind of memory.
        name: &'static str,
        /// What to do.
        advice: &'static str,
        /// What the kernel said.
        source: recoup_sys::Error,
    },
    /// Memory of this source does not take such advice. docs/pool.md has a table of what each takes.
    #[error("{name} cannot be {advice}: {}", advice.instead())]
    Advice {
        /// What was asked for.
        advice: Advice,
        /// Which kind of memory.
        name: &'static str,
    },
    /// The kernel did not follow advice.
    #[error(transparent)]
    NotFollowed(recoup_sys::Error),
    /// A forked child has nothing of its parent's pool, and gets nothing from it.
    #[error("this pool is the parent's, which a forked child has nothing of: make one here")]
    Child,
    /// Too many owners: each has a number of its own, of which there are 2^32 - 2.
    #[error("this pool has had as many owners as it can")]
    Owners,
}

impl Error {
    pub(super) fn chunks(asked: Chunks) -> Self {
        Self::Length { asked: asked.0, unit: "chunks of 2 MiB", most: CHUNKS_PER_SUPERCHUNK as u64 }
    }

    pub(super) fn pages(asked: u64) -> Self {
        Self::Length { asked, unit: "pages of 4 KiB", most: PAGES_PER_CHUNK as u64 }
    }
}

/// The result of asking a pool.
pub type Result<T> = std::result::Result<T, Error>;
