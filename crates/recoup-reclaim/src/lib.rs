//! Finds freed memory that is stuck in running processes, and gives it back.
//!
//! One direction, plain data between the steps, each step usable on its own:
//!
//! ```text
//! target ──scan──▶ findings ──plan──▶ actions ──act──▶ verify ──▶ outcome
//! ```
//!
//! | module | step |
//! |---|---|
//! | [`target`] | which processes: by number, by cgroup, or all |
//! | [`layout`] | what of an address space is looked at, cut into windows |
//! | [`scan`] | reads page tables' contents and finds what is stuck |
//! | [`plan`] | decides what is done about findings, and what is left alone and why |
//! | [`recheck`], [`act`] | a look right before; the kernel requests, batched and paced |
//! | [`verify`] | looks again at exactly what was acted on |
//! | [`outcome`] | what came of it, as plain data |
//! | [`run`] | all of it, over many processes, in windows |
//! | [`host`], [`charge`] | what the host and its cgroups say |
//!
//! # What the target can rely on
//! 1. No byte that it can read changes. The two requests that are made, `MADV_COLD` and
//!    `MADV_PAGEOUT`, change none by definition (madvise(2)).
//! 2. A huge page that is whole is never split: each is looked at again right before the request.
//! 3. It is not stopped. Its mmap lock is held for reading in slices; see [`act::Pace`] and
//!    [`recoup_sys::pagemap`].
//! 4. It may exit, exec, fork, unmap or fault at any moment, and recoup may be killed at any
//!    moment: every request is complete in itself.

pub mod act;
pub mod charge;
pub mod host;
pub mod layout;
mod merge;
pub mod outcome;
pub mod plan;
pub mod recheck;
pub mod run;
pub mod scan;
pub mod target;
pub mod verify;
mod window;

pub use outcome::{LeftAlone, Reason, Stuck};
pub use run::{Mode, Request};
