//! Memory that returns by itself: what a program does about its own memory, without privileges.
//!
//! `unsafe` stays in `recoup-sys`: a promise that only the caller can make (nobody needs these bytes
//! any more) is made where a [`Released`](recoup_sys::own::Released) is made. The exceptions are
//! `companion::chores`, which promises for this crate's own code that the companion may run it; and the
//! [`pool`], which is the owner of its memory (`mapping`, `zone`, `desks`).
//!
//! | module | what it does |
//! |---|---|
//! | [`discard`] | gives parts of huge pages back so that the cgroup's charge falls, and empty page tables of owned ranges |
//! | [`mod@headroom`] | how much more this process can take |
//! | [`tables`] | frees page tables that map nothing, all over the process, and keeps limits |
//! | [`teardown`] | frees large ranges by several threads, or in the background |
//! | [`pool`] | memory that has one owner at a time, in chunks of 2 MiB |
//! | [`companion`] | lets the end of a large process be seen before its memory is freed |

#[cfg(target_arch = "x86_64")]
pub mod companion;
pub mod discard;
pub mod headroom;
pub mod pool;
mod sync;
#[cfg(target_arch = "x86_64")]
pub mod tables;
pub mod teardown;

pub use discard::{Discarder, SplitPolicy};
pub use headroom::{Headroom, headroom};
