//! Why the [book](crate::book) refused something. Nothing changed then.

use core::fmt;

use crate::account::{OwnerId, QuotaExceeded};
use crate::units::{ChunkRun, Chunks, SuperchunkIdx};

/// Why nothing was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The owner may not have so much.
    Quota(QuotaExceeded),
    /// An extent has at least one chunk and at most a superchunk.
    Length(Chunks),
    /// There is room, but part of it is being given back: try again when the request that is under
    /// way has ended.
    Busy,
    /// No superchunk has so many free chunks in a row: attach another.
    Exhausted {
        /// How many were asked for.
        asked: Chunks,
        /// How many are free, here and there.
        free: Chunks,
    },
}

impl From<QuotaExceeded> for Refused {
    fn from(exceeded: QuotaExceeded) -> Self {
        Self::Quota(exceeded)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota(exceeded) => exceeded.fmt(f),
            Self::Length(length) => {
                write!(f, "{} chunks: an extent has from 1 to {}", length.0, Chunks::SUPERCHUNK.0)
            }
            Self::Busy => f.write_str("the only room is being given back at this moment"),
            Self::Exhausted { asked, free } => {
                write!(f, "no room for {} chunks in a row; {} are free", asked.0, free.0)
            }
        }
    }
}

/// Why an extent was not freed, pinned or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYours {
    /// It is not what was handed out in one piece.
    NoExtent(ChunkRun),
    /// It belongs to somebody else.
    Others {
        /// What was named.
        extent: ChunkRun,
        /// Whose it is.
        owner: OwnerId,
    },
    /// It must stay where it is.
    Pinned(ChunkRun),
}

impl fmt::Display for NotYours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoExtent(extent) => write!(f, "chunks {extent} are not one extent"),
            Self::Others { extent, owner } => write!(f, "extent {extent} belongs to {owner}"),
            Self::Pinned(extent) => write!(f, "extent {extent} is pinned"),
        }
    }
}

/// Why a move did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMoved {
    /// What was to be moved cannot be.
    Source(NotYours),
    /// The target is in use, in flight, not of the same length or not part of the pool.
    Target(ChunkRun),
}

impl From<NotYours> for NotMoved {
    fn from(refusal: NotYours) -> Self {
        Self::Source(refusal)
    }
}

impl fmt::Display for NotMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(refusal) => refusal.fmt(f),
            Self::Target(target) => write!(f, "chunks {target} cannot be moved to"),
        }
    }
}

/// A superchunk is part of the pool already, or past the end of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAttached {
    /// Which superchunk.
    pub superchunk: SuperchunkIdx,
}

impl fmt::Display for NotAttached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "superchunk {}: part of the pool already, or past its end", self.superchunk)
    }
}

/// Why a superchunk did not leave the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDetached {
    /// It is not part of it.
    Absent(SuperchunkIdx),
    /// Some of its chunks are handed out or in flight.
    InUse(SuperchunkIdx),
}

impl fmt::Display for NotDetached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(superchunk) => write!(f, "superchunk {superchunk}: not part of the pool"),
            Self::InUse(superchunk) => write!(f, "superchunk {superchunk}: in use"),
        }
    }
}

/// Storage for more superchunks than a pool can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// For how many.
    pub superchunks: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} superchunks are more than a pool can have", self.superchunks)
    }
}

impl core::error::Error for Refused {}
impl core::error::Error for NotYours {}
impl core::error::Error for NotMoved {}
impl core::error::Error for NotAttached {}
impl core::error::Error for NotDetached {}
impl core::error::Error for TooLarge {}
