//! A helper process that shares this one's memory, holds it when the program ends, and frees it.
//!
//! Made with clone(2) and `CLONE_VM`, but no `CLONE_THREAD`: a process of its own with the program's
//! memory, cgroup, OOM score and credentials, and with nothing else of it: its own stack, session,
//! working directory and (no) descriptors. Signals other than SIGKILL and SIGSTOP don't reach it.
//! What it guarantees is said in the crate `recoup`, module `companion`.
//!
//! | file | what is in it |
//! |---|---|
//! | `area` | its memory, mapped before it starts |
//! | `control` | what the program tells it |
//! | `life` | what it does: watching |
//! | `freeing` | what it does in the end |
//!
//! x86-64 only so far.

#![expect(unsafe_code, reason = "a process is made here that shares this one's memory")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use rustix::pipe::PipeFlags;

use self::area::Area;
use self::control::{Control, Orders, READY, STARTING};
pub use self::control::{MOST_WORKERS, Task};
use crate::bare::{self, Start};
use crate::error::{Error, Result};
use crate::kcmp;
use crate::process::all_pids;

mod area;
mod control;
mod freeing;
mod life;

/// `CLONE_VM`, `CLONE_FILES` (until the companion has left them), `CLONE_SETTLS`, `CLONE_UNTRACED`;
/// no signal at its end, so that only those who ask for it (`__WCLONE`) can wait for it. (After an
/// execve of the program the kernel signals `SIGCHLD` all the same, since the parent's exec number is no
/// longer the one that the child was made with; what can be waited for stays as it was.)
///
/// An orphan from the start, made by a child that ends at once, would spare it that. But a program that is a
/// subreaper would have it as an ordinary child then, which waitpid(-1) finds; and the first process of many
/// containers reaps nobody, so that each one ended would stay in the process table.
const COMPANION: usize = 0x0000_0100 | 0x0000_0400 | 0x0008_0000 | 0x0080_0000;

/// How a companion works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Tasks that free memory at the end, itself included: 1 to [`MOST_WORKERS`].
    pub workers: usize,
    /// How often it looks whether the program runs another one (execve(2)), where it isn't told.
    pub check_every: Duration,
    /// Work to be done as long as the program lives.
    pub task: Option<Task>,
}

/// Why there is no companion.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// This process is the init of its PID namespace: with it all processes there end at once, and
    /// it waits for them.
    #[error("process 1 of a PID namespace ends with all others in it, a companion too")]
    NamespaceInit,
    /// This process has one already.
    #[error("this process has a companion already: process {0}")]
    AlreadyArmed(i32),
    /// Another process uses the same memory, such as the parent of a vfork(2).
    #[error("the address space is shared with process {0}")]
    Shared(i32),
    /// The kernel, or a filter of system calls, lacks something.
    #[error("a companion needs what is missing here: {what}: {source}")]
    Missing {
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It could not be made.
    #[error(transparent)]
    System(#[from] Error),
}

/// A companion of this process. Dropping it ends it.
///
/// In a forked child this is a memory of the parent's: it does nothing there.
#[derive(Debug)]
pub struct Companion {
    pid: i32,
    owner: u32,
    /// Taken out when nobody lives in it any more.
    area: std::mem::ManuallyDrop<Area>,
    /// The end for writing, held by this process alone, so that the companion sees it closed by
    /// execve(2).
    _pipe: OwnedFd,
}

impl Companion {
    /// Starts one. Takes about 0.2 ms, and 1 us more for each process of the host; up to 0.2 s while
    /// another process uses this memory, which may be a child about to run its own program.
    ///
    /// # Errors
    /// Where it would do harm or nothing: see [`Refusal`].
    pub fn start(settings: &Settings) -> std::result::Result<Self, Refusal> {
        let own = bare::own_pid();
        if own == 1 {
            return Err(Refusal::NamespaceInit);
        }
        refuse_if_shared(own, None)?;
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| Error::os("make", "a pipe", e))?;
        let workers = settings.workers.clamp(1, MOST_WORKERS) - 1;
        let area = Area::new(workers)?;
        write_orders(&area, orders(settings, own, &reader, &area, workers));
        let pid = spawn(&area)?;
        let area = std::mem::ManuallyDrop::new(area);
        let companion = Self { pid, owner: std::process::id(), area, _pipe: writer };
        companion.await_ready()?;
        // Two threads may have come so far at once. Whoever sees another one now gives up.
        refuse_if_shared(own, Some(pid))?;
        Ok(companion)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it lives. False in a forked child, which has none.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut status = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // It stays a zombie, so that its number is not used again before it is dropped.
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WCLONE;
        let id = self.pid.cast_unsigned();
        // SAFETY: writes the status only.
        let result = unsafe { libc::waitid(libc::P_PID, id, status.as_mut_ptr(), options) };
        // SAFETY: all zeroes, or written by the kernel, either of which is a valid value.
        let status = unsafe { status.assume_init() };
        // SAFETY: waitid sets the number if a child has ended, else leaves it zero.
        let ended = unsafe { status.si_pid() };
        result == 0 && ended == 0
    }

    /// Keeps it until this process has ended, without a handle. Needed where the handle would be
    /// dropped before, as a local variable of `main` is.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    fn control(&self) -> &Control {
        // SAFETY: `write_orders` made it a valid control block, which changes by atomic operations
        // only; it stays mapped as long as `self`.
        unsafe { self.area.control().as_ref() }
    }

    /// Waits until it has found out whether it can work here.
    fn await_ready(&self) -> std::result::Result<(), Refusal> {
        let control = self.control();
        loop {
            let refused = match control.state.load(Acquire) {
                READY => return Ok(()),
                STARTING if self.is_alive() => {
                    bare::wait_while(&control.state, STARTING, Duration::from_millis(20));
                    continue;
                }
                STARTING => ("staying alive", libc::ESRCH),
                _ => {
                    let step = usize::try_from(control.step.load(Relaxed)).unwrap_or(0);
                    let what = life::STEPS.get(step).copied().unwrap_or("an unknown step");
                    (what, control.errno.load(Relaxed))
                }
            };
            let source = std::io::Error::from_raw_os_error(refused.1);
            return Err(Refusal::Missing { what: refused.0, source });
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // A forked child neither has the companion nor its memory.
        if self.owner != std::process::id() {
            return;
        }
        if self.is_alive() {
            // SAFETY: takes numbers only. The number is still the companion's, a child of this
            // process that was not waited for. Whatever it does may be broken off at any point.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
        loop {
            // SAFETY: no status is wanted, so nothing is written.
            let waited = unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WCLONE) };
            let interrupted =
                || std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
            if waited != -1 || !interrupted() {
                break;
            }
        }
        // SAFETY: taken out once, here. The companion has ended: nobody runs in its memory.
        unsafe { std::mem::ManuallyDrop::drop(&mut self.area) };
    }
}

/// Whether the kernel, and filters of system calls, have what a companion needs. Makes no process and
/// changes nothing.
pub(crate) fn probe() -> Result<()> {
    let fail = |what: &'static str| {
        move |errno| Error::os("use", what, std::io::Error::from_raw_os_error(errno))
    };
    bare::is_alone().map_err(fail("unshare(2) with CLONE_VM"))?;
    let own = bare::open_process(bare::own_pid()).map_err(fail("pidfd_open(2) (Linux 5.3)"))?;
    // SAFETY: opened right above, and known here only.
    unsafe { bare::close(own) };
    bare::close_none().map_err(fail("close_range(2) (Linux 5.9)"))?;
    Ok(())
}

/// Refuses if a process other than this one and its companion uses this memory.
fn refuse_if_shared(own: i32, companion: Option<i32>) -> std::result::Result<(), Refusal> {
    // A child that another thread is just making may still borrow it, until it runs its program.
    const PATIENCE: u32 = 40;
    let name = format!("recoup/{own}");
    for attempt in 1.. {
        let Some(other) = sharer(own, companion)? else { return Ok(()) };
        let comm = std::fs::read_to_string(format!("/proc/{other}/comm"));
        if comm.is_ok_and(|comm| comm.trim_end() == name) {
            return Err(Refusal::AlreadyArmed(other));
        }
        if attempt == PATIENCE {
            return Err(Refusal::Shared(other));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A process that uses this one's memory: found by kcmp(2) or, where that is forbidden, by name,
/// which finds at least another companion.
fn sharer(own: i32, companion: Option<i32>) -> Result<Option<i32>> {
    let name = format!("recoup/{own}\n");
    let by_name = !kcmp::same_address_space(own, own);
    let shares = |pid: i32| {
        if by_name {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name)
        } else {
            kcmp::same_address_space(own, pid)
        }
    };
    let others = all_pids()?.into_iter().filter(|&pid| pid != own && Some(pid) != companion);
    Ok(others.into_iter().find(|&pid| shares(pid)))
}

fn orders(settings: &Settings, own: i32, reader: &OwnedFd, area: &Area, workers: usize) -> Orders {
    let mut places = [None; MOST_WORKERS];
    for (number, place) in places.iter_mut().enumerate().take(workers) {
        *place = Some(area.worker(number));
    }
    Orders {
        main: own,
        pipe: c_string(&format!("/proc/{own}/fd/{}", reader.as_raw_fd())),
        name: c_string(&format!("recoup/{own}")),
        check_every: settings.check_every,
        task: settings.task,
        area: area.addresses(),
        places,
    }
}

/// Text with a zero behind it, cut to what fits.
fn c_string<const N: usize>(text: &str) -> [u8; N] {
    let mut buffer = [0; N];
    for (place, byte) in buffer.iter_mut().zip(text.bytes()).take(N - 1) {
        *place = byte;
    }
    buffer
}

/// Completes the control block of an area in which nobody lives yet.
fn write_orders(area: &Area, orders: Orders) {
    // SAFETY: within the area, which is zeroed and which nobody else uses yet.
    let place = unsafe { &raw mut (*area.control().as_ptr()).orders };
    // SAFETY: as above; zeroes, which all other fields have, are valid for atomic numbers.
    unsafe { place.write(orders) }
}

/// Makes the companion, with all signals blocked.
fn spawn(area: &Area) -> Result<i32> {
    let place = area.companion();
    let start = Start {
        flags: COMPANION,
        stack_end: place.stack_end,
        tls: place.tls,
        tid: std::ptr::null(),
        entry: life::live,
        argument: area.control().as_ptr().cast_const().cast(),
    };
    let fail = |errno| Error::os("make", "a companion", std::io::Error::from_raw_os_error(errno));
    // It begins with this thread's blocked signals. The program's handlers must not run in it.
    // SAFETY: put back below; nothing in between unwinds.
    let before = unsafe { bare::block_signals(u64::MAX) }.map_err(fail)?;
    // SAFETY: `live` is written for this; the area outlives it, since dropping the handle waits for
    // its end. This thread waits until it has left the shared table of descriptors or ended.
    let pid = unsafe { bare::clone(&start) };
    // SAFETY: puts the signals back that were blocked before.
    let restored = unsafe { bare::block_signals(before) };
    let pid = pid.map_err(fail)?;
    restored.map_err(fail)?;
    i32::try_from(pid).map_err(|_| fail(libc::EOVERFLOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_before_the_last_byte() {
        assert_eq!(c_string::<4>("abcdef"), *b"abc\0");
        assert_eq!(c_string::<4>("a"), *b"a\0\0\0");
    }
}
