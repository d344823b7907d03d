//! Page tables that map nothing, found and freed while all threads run on.
//!
//! A program that touches memory sparsely and gives it back keeps one page table for each 2 MiB that it
//! has ever touched. [`Sweeper::sweep`] frees them behind a fence ([`recoup_sys::userfault`]): whoever
//! touches a page of the fenced range that is not there waits until the fence is down, for a time
//! that is measured and kept short. [`Keeper`] does so by itself, within [`Limits`].
//!
//! | guaranteed | by whom |
//! |---|---|
//! | no byte that the program can read changes | the fence, and the owner's promise ([`Settled`]) that mappings aren't replaced meanwhile |
//! | no system call fails for a page that isn't there | a userfaultfd that covers kernel faults; refused without |
//! | a wait is about as long as `max_pause` | sizes follow from the time that the last ones took; not a guarantee: a fencing thread can lose its processor like any other |
//! | if the fencing process is killed, all go on | the kernel: the descriptor's last close lets go |
//!
//! A fencing thread that is *stopped* (a debugger, SIGSTOP) holds its fence until it is continued. Nobody
//! may lift it meanwhile: what it found empty would not stay so.
//!
//! Left alone: shared memory, files, hugetlb, devices, stacks, locked memory, what another
//! userfaultfd watches, 2 MiB blocks that hold anything (guard pages and other markers too)
//! or straddle mappings.

mod keeper;
mod outcome;
mod pace;
mod sweep;

pub use keeper::{Keeper, Limits, Regulator, Step};
pub use outcome::{Outcome, Pauses};
pub use recoup_sys::userfault::Settled;
pub use sweep::{Mode, Refused, Sweeper};
