//! Memory that returns by itself: what a program does about its own memory, without privileges.
//!
//! `unsafe` stays in `recoup-sys`: a promise that only the caller can make (nobody needs these bytes
//! any more) is made where a [`Released`] is made. The exceptions are
//! `companion::chores`, which promises for this crate's own code that the companion may run it; and the
//! [`pool`], which is the owner of its memory (`mapping`, `zone`, `desks`, `transport`), has it from sources that
//! make promises about it, and hands it to allocators (`blocks`, `allocator`, `global`) and guests (`vm`).
//!
//! | module | what it does |
//! |---|---|
//! | [`discard`] | gives parts of huge pages back so that the cgroup's charge falls, and empty page tables of owned ranges |
//! | [`mod@headroom`] | how much more this process can take |
//! | [`tables`] | frees page tables that map nothing, all over the process, and keeps limits |
//! | [`teardown`] | frees large ranges by several threads, or in the background |
//! | [`pool`] | memory that has one owner at a time, in chunks of 2 MiB; for collections, programs, virtual machines |
//! | [`companion`] | lets the end of a large process be seen before its memory is freed |
//!
//! [`tables`] and [`companion`] are there on x86-64 only. What their functions take and return is named here, so
//! that a program needs no other crate: amounts and ranges ([`Bytes`], [`Pages`], [`PageRange`]), memory to be
//! given back ([`Released`], [`OwnedMapping`]), memory to try it out on ([`Region`]), and what this kernel can do
//! ([`Features`]).

#[cfg(target_arch = "x86_64")]
pub mod companion;
pub mod discard;
pub mod headroom;
mod inside;
pub mod pool;
mod sync;
#[cfg(target_arch = "x86_64")]
pub mod tables;
pub mod teardown;

pub use discard::{Discarder, SplitPolicy};
pub use headroom::{Headroom, headroom};
pub use recoup_sys::mapped::OwnedMapping;
pub use recoup_sys::numa::{Node, nodes_with_memory};
pub use recoup_sys::own::{Backing, Released};
pub use recoup_sys::region::{OwnAdvice, Region};
pub use recoup_sys::{
    Bytes, Errno, Error, Features, PageIdx, PageRange, Pages, Result, Support, units,
};

/// The programs in the README are compiled like these in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
