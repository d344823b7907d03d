//! Page tables that map nothing, found and freed while all threads run on.
//!
//! # What the owner promises first
//! [`Settled`]: as long as it is swept, no mapping in the range is replaced by another. Not by the
//! program, and not by its allocator: one that unmaps what is freed and maps anew (glibc, jemalloc and
//! most others do) breaks the promise for everything it can reach. With such a malloc only ranges that
//! one has mapped oneself can honestly be promised; [`Settled::everywhere`] is for programs of which all
//! mappings are known to stay. Kernels before Linux 6.14 free tables only where memory is mapped anew, which needs
//! more of a promise: [`Settled::plain`].
//!
//! # What is done
//! A program that touches memory sparsely and gives it back keeps one page table for each 2 MiB that it
//! has ever touched. [`Sweeper::sweep`] frees them behind a fence ([`recoup_sys::userfault`]): whoever
//! touches a page of the fenced range that is not there waits until the fence is down, for a time
//! that is measured and kept short. [`Keeper`] does so by itself, within [`Limits`].
//!
//! | guaranteed | by whom |
//! |---|---|
//! | no byte that the program can read changes | the fence, and the owner's promise |
//! | no system call fails for a page that isn't there | a userfaultfd that covers kernel faults; refused without |
//! | a wait is about as long as `max_pause` | sizes follow from the time that the last ones took; not a guarantee: a fencing thread can lose its processor like any other |
//! | a sweep does not wait for itself | its own memory and the blocks around its stack pointer are never fenced |
//! | if the fencing process is killed, all go on | the kernel: the descriptor's last close lets go. Not before a child that was forked meanwhile has executed another program or ended: it has the descriptor, too |
//! | a forked child sweeps its own memory | what is attached to the parent is recognised and attached anew |
//!
//! A fencing thread that is *stopped* (a debugger, SIGSTOP) holds its fence until it is continued. Nobody
//! may lift it meanwhile: what it found empty would not stay so. For the same reason the fencing thread
//! must not run signal handlers that touch settled memory: a program that has such blocks these signals
//! in the thread that steps (a [`Keeper`]'s inherits the mask of the thread that starts it).
//!
//! The threads that step ([`Keeper`]'s two, or the companion) ask for the lowest real-time priority
//! (`SCHED_RR` 1) if they may: a fence that waits for a processor holds up everybody. Where tables are
//! needed, sweeps gain nothing and get rarer, until they take some 1.5 % of a processor.
//!
//! Left alone: shared memory, files, hugetlb, devices, mappings that cannot be read (`PROT_NONE`), the first
//! thread's stack, locked memory, what another userfaultfd watches, 2 MiB blocks that hold anything (guard
//! pages and other markers too) or straddle mappings.

mod aside;
mod behind;
mod desk;
mod keeper;
mod mate;
#[cfg(all(test, loom))]
mod orders;
mod outcome;
mod pace;
mod rest;
mod sweep;

pub use keeper::{Keeper, Limits, Regulator, Step};
pub use outcome::{Outcome, Pauses};
pub use recoup_sys::own_status::OwnStatus;
pub use recoup_sys::urgency::short_bursts;
pub use recoup_sys::userfault::Settled;
pub use sweep::{Mode, Refused, Sweeper};
