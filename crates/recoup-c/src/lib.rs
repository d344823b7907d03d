//! recoup for C and C++.
//!
//! `include/recoup.h` is made from this crate by cbindgen; a test keeps them equal. What a function
//! demands of its caller stands in its documentation, which becomes the header's.
//!
//! One file a group of calls, named like the module of `recoup` that it offers.

#![expect(clippy::missing_safety_doc, reason = "the header is C: each function says what it needs")]

pub mod discard;
mod error;
pub mod headroom;
pub mod owned;
#[cfg(target_arch = "x86_64")]
pub mod reaper;
#[cfg(target_arch = "x86_64")]
mod reason;
#[cfg(target_arch = "x86_64")]
pub mod tables;
pub mod teardown;
