//! The companion: lets the end of a process be seen at once, and frees its memory behind it.
//!
//! A process of hundreds of gigabytes takes long to end: its parent is told only when the kernel has
//! freed every page, on one processor. The companion is a helper process that shares the address
//! space (clone(2) with `CLONE_VM`). So the program ends in about a millisecond, however it ends,
//! and the companion then discards the memory with several workers and ends itself.
//!
//! What it discards is private anonymous memory that can be written, in mappings of 1 MiB and more. All else the
//! kernel frees as ever, on one processor, once the companion has ended: shared memory, hugetlb pages, files, memory
//! that cannot be written or can be executed, and page tables. Nobody waits for that but who waits for the memory.
//!
//! # What the program and its parent can rely on
//! - **Exit status, core dump, `waitpid`**: as without it. A core dump is written before the program
//!   counts as ended, and holds none of the companion's memory (before Linux 5.16 a core dump also
//!   kills the companion). `waitpid(-1)` never returns it, unless with `__WALL` or `__WCLONE`.
//! - **Descriptors**: it has none of the program's, so pipes, sockets and locks close when the
//!   program ends. The program holds one of the companion's, closed by execve(2).
//! - **Signals** to the program, its process group or its terminal don't reach it: it has its own
//!   session. It is in the same cgroup, so what kills a cgroup kills both, and then the memory is
//!   freed as without it. So does the OOM killer, which counts both as one.
//! - **It never frees memory that somebody uses.** The kernel itself is asked, right before, whether
//!   anybody else has the address space: after an execve(2) nobody, but a child by vfork(2) of a
//!   program that was killed goes on in it.
//! - **If it is killed**, nothing happens to the program: [`Companion::is_alive`] says so, and another
//!   one can be armed.
//! - **A forked child has no companion**, and its copy of the handle does nothing.
//!
//! # When not to use it
//! - The parent sees the end *before* the memory is free. Whoever restarts the program at once, in a
//!   cgroup or on a machine that cannot hold it twice, says so by [`Restart::NeedsTheMemory`].
//! - It has the program's credentials of the moment of arming, and memory in common with it. Arm it
//!   after privileges were dropped, or whoever takes over the program gets them back.
//! - After the end it shows for a moment as a process named `recoup/PID`. Supervisors that wait for
//!   an empty cgroup wait for it too. It keeps what the program had mapped: files, shared memory.
//! - Its new parent (init or a subreaper) has to reap it, as any orphan.
//! - After an execve(2) it ends as a child of the new program, which gets one `SIGCHLD` for it: the kernel
//!   turns any other exit signal, no signal too, into that where the parent has run another program since
//!   the child was made. wait(2) doesn't return it, unless with `__WALL` or `__WCLONE`, so that a program
//!   which waits for *some* child at each `SIGCHLD`, without `WNOHANG`, waits longer than it meant to. Its
//!   entry in the process table stays until that program ends.
//!
//! It needs Linux 5.9, x86-64, `/proc`, and `unshare(CLONE_VM)`, which some containers' filters of
//! system calls forbid.

mod chores;

use std::num::NonZeroUsize;
use std::time::Duration;

pub use chores::Chores;
pub use recoup_sys::companion::{Companion, Refusal as NoCompanion, Task};
use recoup_sys::companion::{MOST_WORKERS, Settings};

/// How a companion is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// What happens after the program's end.
    pub restart: Restart,
    /// How many workers free the memory: at most 16.
    pub workers: NonZeroUsize,
    /// How often it looks whether the program has become another one by execve(2), in case that it
    /// is not told: when the program's children inherited the descriptor that tells it, or the
    /// program closed it. Each look costs some microseconds.
    pub check_every: Duration,
    /// Work that it does as long as the program lives, such as [`Chores`].
    pub task: Option<Task>,
}

/// What happens after the program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing that needs its memory at once: its end is seen before the memory is free.
    NeedsNoMemory,
    /// Somebody needs the memory as soon as the end is seen: no companion.
    NeedsTheMemory,
}

impl Default for Options {
    /// As many workers as processors, at most 4; a look every 250 ms; no task.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let four = NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN);
        Self {
            restart: Restart::NeedsNoMemory,
            workers: processors.min(four),
            check_every: Duration::from_millis(250),
            task: None,
        }
    }
}

/// Why no companion was armed. The program goes on as without one.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The options say so.
    #[error("no companion: its memory is needed at once by a restart")]
    MemoryNeeded,
    /// It cannot be, or would do harm.
    #[error(transparent)]
    Impossible(#[from] NoCompanion),
}

/// Gives this process a companion, which lives as long as the handle and beyond the process's end.
///
/// Takes about 0.3 ms. While another process uses the same memory, such as a child that another thread
/// is just starting by posix_spawn(3), it waits for that one, up to 0.2 s, and then refuses.
///
/// Dropping the handle ends the companion: for one that sees the end of `main`, [`Companion::keep`] it.
///
/// # Errors
/// [`Refusal`] says why there is none.
pub fn arm(options: &Options) -> Result<Companion, Refusal> {
    if options.restart == Restart::NeedsTheMemory {
        return Err(Refusal::MemoryNeeded);
    }
    let settings = Settings {
        workers: options.workers.get().min(MOST_WORKERS),
        check_every: options.check_every,
        task: options.task,
    };
    Ok(Companion::start(&settings)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_that_needs_the_memory_gets_no_companion() {
        let options = Options { restart: Restart::NeedsTheMemory, ..Options::default() };
        assert!(matches!(arm(&options), Err(Refusal::MemoryNeeded)));
    }
}
