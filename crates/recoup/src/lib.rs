//! Memory that returns by itself: what a program does about its own memory, without privileges.
//!
//! `unsafe` stays in `recoup-sys`: a promise that only the caller can make (nobody needs these bytes
//! any more) is made where a [`Released`](recoup_sys::own::Released) is made.

#![forbid(unsafe_code)]

pub mod tables;
