//! `recoup_reaper_start`: the companion (`recoup::companion`), under the name that says what C programs
//! want it for.
//!
//! There is one a process, kept here, so that returning from `main` doesn't end it.

#![expect(unsafe_code, reason = "C hands over a buffer")]

use std::ffi::{c_char, c_int};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoup_rust::companion::{self, Companion, NoCompanion, Options, Refusal};

use crate::error::{NOT_SUPPORTED, errno};
use crate::reason::tell;

const BUSY: c_int = 16;
const ALREADY: c_int = 114;

/// A static is never dropped: it lives on when the program ends.
static REAPER: Mutex<Option<Companion>> = Mutex::new(None);

fn reaper() -> MutexGuard<'static, Option<Companion>> {
    REAPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives this process a reaper: a helper process that shares its memory, so that however the program
/// ends, its parent sees that in about a millisecond, with the same status. The reaper then frees the
/// memory and ends. No handle is needed: it stays until the program has ended, also by a return from
/// `main`, or until recoup_reaper_stop().
///
/// `workers` says how many tasks free the memory, at most 16; 0: as many as processors, at most 4.
/// `look_every_ms` says how often it looks whether the program has become another one by execve(2),
/// where it isn't told; 0: every 250 ms.
///
/// Takes about 0.3 ms; up to 0.2 s while another process uses the same memory, such as a child by
/// vfork(2) that has not yet run its program.
///
/// - The end is seen *before* the memory is free: not for programs that are restarted at once where
///   there is no room for both.
/// - It frees private anonymous memory that can be written. All else (shared memory, hugetlb pages, files, page
///   tables) the kernel frees on one processor when the reaper ends.
/// - It keeps the privileges of this moment: start it after they were dropped.
/// - It is in the same cgroup, shows as `recoup/PID`, and has none of the program's descriptors.
/// - A forked child has none, and may start its own.
/// - After an execve(2) the new program gets one SIGCHLD when the reaper ends, and waits for it only with
///   `__WALL` or `__WCLONE`.
/// - The library is not unloaded (dlclose(3)) while it lives.
///
/// Returns 0, or an errno, and the program goes on as without it: EALREADY if there is one, EBUSY if
/// another process uses the same memory, EOPNOTSUPP in process 1 of a PID namespace, else that of what
/// the kernel or a filter of system calls lacks. The reason is written to the `length` bytes at
/// `reason`, cut to fit and ended by a zero (an empty text for 0), unless `reason` is NULL.
///
/// The three functions lock each other out: not in a child forked while another thread was in one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_reaper_start(
    workers: u32,
    look_every_ms: u32,
    reason: *mut c_char,
    length: usize,
) -> c_int {
    let started = start(workers, look_every_ms);
    let text = started.as_ref().err().map(ToString::to_string).unwrap_or_default();
    // SAFETY: NULL, or the caller's own bytes.
    unsafe { tell(&text, reason, length) };
    started.as_ref().err().map_or(0, number)
}

fn start(workers: u32, look_every_ms: u32) -> Result<(), Refusal> {
    let mut reaper = reaper();
    if let Some(living) = reaper.as_ref().filter(|reaper| reaper.is_alive()) {
        return Err(NoCompanion::AlreadyArmed(living.pid()).into());
    }
    // What is left of a killed one, or of the parent's in a forked child.
    drop(reaper.take());
    let mut options = Options::default();
    if let Some(workers) = NonZeroUsize::new(usize::try_from(workers).unwrap_or(usize::MAX)) {
        options.workers = workers;
    }
    if look_every_ms > 0 {
        options.check_every = Duration::from_millis(look_every_ms.into());
    }
    *reaper = Some(companion::arm(&options)?);
    Ok(())
}

fn number(refusal: &Refusal) -> c_int {
    match refusal {
        Refusal::MemoryNeeded => NOT_SUPPORTED,
        Refusal::Impossible(why) => match why {
            NoCompanion::NamespaceInit => NOT_SUPPORTED,
            NoCompanion::AlreadyArmed(_) => ALREADY,
            NoCompanion::Shared(_) => BUSY,
            NoCompanion::Missing { source, .. } => source.raw_os_error().unwrap_or(NOT_SUPPORTED),
            NoCompanion::System(error) => errno(error),
        },
    }
}

/// 1 if the reaper lives, 0 if there is none: not started, killed, or of a parent.
#[unsafe(no_mangle)]
pub extern "C" fn recoup_reaper_alive() -> c_int {
    reaper().as_ref().is_some_and(Companion::is_alive).into()
}

/// Ends the reaper and waits for that; the program goes on as without it. Does nothing if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn recoup_reaper_stop() {
    drop(reaper().take());
}
