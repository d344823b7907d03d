//! Memory that returns by itself: what a program does about its own memory, without privileges.
//!
//! `unsafe` stays in `recoup-sys`: a promise that only the caller can make (nobody needs these bytes
//! any more) is made where a [`Released`](recoup_sys::own::Released) is made.
//!
//! | module | what it does |
//! |---|---|
//! | [`teardown`] | frees large ranges by several threads, or in the background |
//! | [`companion`] | lets the end of a large process be seen before its memory is freed |

#![forbid(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub mod companion;
pub mod teardown;
