//! The books of a pool of memory that has one owner at a time: what is free, whose the rest is, and
//! what goes back to where it came from. Pure data and decisions: no I/O, no clock, no allocation
//! (but for a compaction's plan, feature `alloc`), no unsafe code and no dependencies, so that the
//! same code serves a program, a guest and a kernel driver.
//!
//! | module | what it decides |
//! |---|---|
//! | [`units`] | what a position and an amount are: pages, chunks (2 MiB), superchunks (1 GiB) |
//! | [`bits`] | which bits are set, and where a run of them is |
//! | [`superchunk`] | the states of a gigabyte's 512 chunks, and which of them are legal |
//! | [`pages`] | which pages of a chunk are handed out, where they are handed out singly |
//! | [`account`] | who an owner is, and how much it may have |
//! | [`book`] | which superchunk serves an allocation |
//! | [`refusal`] | why it serves none |
//! | [`compact`] | which extents move so that the most superchunks become empty |
//! | [`hints`] | which freed memory is given back, and when |
//!
//! A book has a single writer, so it takes `&mut self`; who shares one puts its own lock around it.
//! The one thing with two writers is [`hints::HintMap`].

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod account;
pub mod bits;
pub mod book;
#[cfg(feature = "alloc")]
pub mod compact;
pub mod hints;
pub mod pages;
pub mod refusal;
mod shelves;
pub mod superchunk;
pub mod units;

pub use account::{Account, OwnerId};
pub use book::{Alignment, Grant, Move, PoolBook};
pub use refusal::Refused;
pub use superchunk::Superchunk;
pub use units::{ChunkIdx, ChunkRun, Chunks, SuperchunkIdx};
