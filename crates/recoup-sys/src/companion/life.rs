//! What the companion does, from its first instruction to its last.
//!
//! The program may have died holding any lock, or be dying right now: so nothing here allocates,
//! locks, panics or uses thread-local storage. See [`crate::bare`].

#![expect(unsafe_code, reason = "the companion's code begins and ends outside of Rust's rules")]

use std::ffi::{CStr, c_void};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use super::control::{Control, Orders, READY, REFUSED};
use super::freeing;
use crate::bare::{self, Errno, Watch};

/// What has to succeed before the companion is ready, for the error message.
pub(super) const STEPS: [&str; 6] = [
    "closing its descriptors: close_range(2) with CLOSE_RANGE_UNSHARE (Linux 5.9)",
    "a session of its own: setsid(2)",
    "being a child in the program's PID namespace",
    "watching the program: pidfd_open(2) (Linux 5.3)",
    "asking whether the memory is shared: unshare(2) with CLONE_VM",
    "reading /proc/self/maps",
];

/// How soon it looks again for others that share the memory of a program that has ended.
const SOON: Duration = Duration::from_millis(10);

/// A descriptor that is not watched (poll(2)).
const NONE: i32 = -1;

/// The companion.
///
/// # Safety
/// `argument` is a [`Control`] that stays mapped until the caller, which has its own stack, its own
/// table of descriptors or one shared with a program that waits, and all signals blocked, has ended.
pub(super) unsafe extern "C" fn live(argument: *const c_void) -> ! {
    // SAFETY: the caller answers for the control block; all that changes in it is atomic.
    let control = unsafe { &*argument.cast::<Control>() };
    match set_up(&control.orders) {
        Ok(watches) => {
            control.state.store(READY, Release);
            bare::wake_all(&control.state);
            watch(&control.orders, watches);
            // A task may have asked for more.
            let _ = bare::schedule_as_ordinary();
            // SAFETY: `watch` returns when nobody else uses this address space.
            unsafe { freeing::free_all(control) };
        }
        Err((step, errno)) => {
            control.step.store(step, Relaxed);
            control.errno.store(errno, Relaxed);
            control.state.store(REFUSED, Release);
            bare::wake_all(&control.state);
        }
    }
    bare::exit_process()
}

/// Becomes a process that has nothing in common with the program but its memory, cgroup, OOM score
/// and credentials. Returns what to watch: the program's pidfd and the pipe.
fn set_up(orders: &Orders) -> Result<[Watch; 2], (u32, Errno)> {
    let step = |number: u32| move |errno: Errno| (number, errno);
    // SAFETY: no descriptor belongs to this process: it has just been made, and opened none.
    unsafe { bare::leave_descriptors() }.map_err(step(0))?;
    bare::new_session().map_err(step(1))?;
    // What fails here costs nothing but comfort: the root directory may be unreadable, names and
    // priorities are as they are.
    let _ = bare::change_directory(c"/");
    let _ = bare::name_task(text(&orders.name));
    let _ = bare::dump_no_core();
    let _ = bare::schedule_as_ordinary();
    if bare::own_pid() == 1 || bare::parent_pid() != orders.main {
        return Err((2, libc::ESRCH));
    }
    let program = bare::open_process(orders.main).map_err(step(3))?;
    // A child is given to another parent before its parent's number is free again: so this pidfd
    // means the program.
    if bare::parent_pid() != orders.main {
        return Err((2, libc::ESRCH));
    }
    bare::is_alone().map_err(step(4))?;
    freeing::try_maps().map_err(step(5))?;
    // Without the pipe (a program that may not be traced) execve is seen by the regular look only.
    let pipe = bare::open(text(&orders.pipe)).unwrap_or(NONE);
    Ok([program, pipe].map(|fd| Watch { fd, wanted: libc::POLLIN, seen: 0 }))
}

/// The C string in a buffer.
fn text(buffer: &[u8]) -> &CStr {
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// Waits until nobody else uses this address space: the program has ended or runs another one, and
/// so have all others that shared its memory, such as children by vfork(2).
///
/// The pidfd tells of the end, the pipe, of which the program alone holds the other end, of an
/// execve. Both are only hints to look at once; the look itself decides. Programs that close all
/// their descriptors, or whose children inherited the pipe, are looked at regularly.
fn watch(orders: &Orders, mut watches: [Watch; 2]) {
    let mut task_at = orders.task.map(|_| bare::now());
    let mut look_every = orders.check_every;
    let mut look_at = bare::now().saturating_add(look_every);
    loop {
        let now = bare::now();
        let until = task_at.map_or(look_at, |task_at| look_at.min(task_at));
        let mut hinted = false;
        if bare::poll(&mut watches, until.saturating_sub(now)).is_ok() {
            let [program, pipe] = &mut watches;
            if program.seen != 0 {
                // Over, perhaps but for a child that still borrows its memory.
                (hinted, program.fd, look_every, task_at) = (true, NONE, SOON, None);
            }
            if pipe.seen != 0 {
                // SAFETY: opened by `set_up`, and known here only.
                unsafe { bare::close(pipe.fd) };
                (hinted, pipe.fd) = (true, NONE);
            }
            (program.seen, pipe.seen) = (0, 0);
        }
        let now = bare::now();
        if hinted || now >= look_at {
            if bare::is_alone().unwrap_or(false) {
                return;
            }
            look_at = now.saturating_add(look_every);
            if look_every < orders.check_every {
                // Not for ever so often: a child by vfork may live for days.
                look_every = look_every.saturating_mul(2).min(orders.check_every);
            }
        }
        if let (Some(task), Some(due)) = (orders.task, task_at)
            && now >= due
        {
            // SAFETY: whoever made the task promised that it may be called here; the program lives,
            // or has died so recently that its memory is untouched.
            let nanoseconds = unsafe { (task.run)(task.state) };
            task_at = Some(bare::now().saturating_add(Duration::from_nanos(nanoseconds)));
        }
    }
}
