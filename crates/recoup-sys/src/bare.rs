//! System calls for code that has nothing of a program around it: no allocator, no locks, no
//! thread-local storage (so no `errno`), no panics. The [companion](crate::companion) lives on these.
//!
//! An error is the bare `errno`.

#![expect(unsafe_code, reason = "system calls are made here by instruction")]

use std::arch::asm;
use std::ffi::{CStr, c_long, c_void};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// An error number (errno(3)).
pub(crate) type Errno = i32;
/// What a system call returned.
pub(crate) type Answer = Result<usize, Errno>;

/// Calls the kernel.
///
/// # Safety
/// What the system call with this number does with these arguments must be allowed to the caller.
unsafe fn call(number: c_long, arguments: [usize; 6]) -> Answer {
    let [a, b, c, d, e, f] = arguments;
    let result: c_long;
    // SAFETY: the kernel changes rax, rcx and r11 only (syscall(2)), and what the call itself is
    // about, for which the caller answers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer(result)
}

/// The kernel's convention: -4095..=-1 is an error.
fn answer(result: c_long) -> Answer {
    if (-4095..0).contains(&result) {
        Err(i32::try_from(-result).unwrap_or(libc::EINVAL))
    } else {
        Ok(usize::from_ne_bytes(result.to_ne_bytes()))
    }
}

fn descriptor(fd: i32) -> usize {
    // Sign-extended, as the kernel takes it.
    (fd as isize).cast_unsigned()
}

/// What a new task begins with.
pub(crate) struct Start {
    /// `CLONE_*`, and the exit signal in the lowest byte.
    pub(crate) flags: usize,
    /// The end of its stack, at a multiple of 16.
    pub(crate) stack_end: *mut u8,
    /// What its `fs` register points to.
    pub(crate) tls: *mut u8,
    /// Where its number is written and, when it ends, cleared (with `CLONE_PARENT_SETTID` and
    /// `CLONE_CHILD_CLEARTID`).
    pub(crate) tid: *const AtomicU32,
    /// What it does, with `argument`; never returns.
    pub(crate) entry: unsafe extern "C" fn(*const c_void) -> !,
    /// Handed to `entry`.
    pub(crate) argument: *const c_void,
}

/// Makes a task that shares this address space (clone(2) with `CLONE_VM`), and returns its number.
///
/// # Safety
/// `entry` must be fit to run with this argument, on this stack and without a program's
/// thread-local storage; stack and TLS belong to the new task alone until it has ended.
pub(crate) unsafe fn clone(start: &Start) -> Answer {
    let result: c_long;
    // SAFETY: the caller answers for what the new task does. It comes out of the system call with
    // this task's registers, on its own empty stack, and goes straight to `entry`, so nothing of
    // this function's frame is used twice.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone => result,
            in("rdi") start.flags, in("rsi") start.stack_end, in("rdx") start.tid,
            in("r10") start.tid, in("r8") start.tls,
            in("r9") start.entry, in("r12") start.argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer(result)
}

/// Ends this task alone (`exit`) or, from the last one, its process.
pub(crate) fn exit_task() -> ! {
    loop {
        // SAFETY: ends the caller, which by its type expects it.
        let _ = unsafe { call(libc::SYS_exit, [0; 6]) };
    }
}

/// Ends this process (`exit_group`).
pub(crate) fn exit_process() -> ! {
    loop {
        // SAFETY: ends the caller, which by its type expects it.
        let _ = unsafe { call(libc::SYS_exit_group, [0; 6]) };
    }
}

/// Makes the table of descriptors this process's own and empties it (`CLOSE_RANGE_UNSHARE`, Linux
/// 5.9): none is duplicated on the way.
///
/// # Safety
/// Nobody in this process owns a descriptor.
pub(crate) unsafe fn leave_descriptors() -> Answer {
    const CLOSE_RANGE_UNSHARE: usize = 2;
    let all = u32::MAX as usize;
    // SAFETY: the caller answers for it that nobody's descriptors are closed.
    unsafe { call(libc::SYS_close_range, [0, all, CLOSE_RANGE_UNSHARE, 0, 0, 0]) }
}

/// Tries close_range(2) on numbers that no descriptor has.
pub(crate) fn close_none() -> Answer {
    let beyond = u32::MAX as usize;
    // SAFETY: no descriptor has this number, so none is closed.
    unsafe { call(libc::SYS_close_range, [beyond, beyond, 0, 0, 0, 0]) }
}

/// setsid(2)
pub(crate) fn new_session() -> Answer {
    // SAFETY: takes no argument; changes the session of this process.
    unsafe { call(libc::SYS_setsid, [0; 6]) }
}

/// chdir(2)
pub(crate) fn change_directory(path: &CStr) -> Answer {
    // SAFETY: reads the path, which is a borrowed C string.
    unsafe { call(libc::SYS_chdir, [path.as_ptr().addr(), 0, 0, 0, 0, 0]) }
}

/// `PR_SET_NAME` (prctl(2)): the name of this task, cut to 15 bytes.
pub(crate) fn name_task(name: &CStr) -> Answer {
    const PR_SET_NAME: usize = 15;
    // SAFETY: reads the name, which is a borrowed C string.
    unsafe { call(libc::SYS_prctl, [PR_SET_NAME, name.as_ptr().addr(), 0, 0, 0, 0]) }
}

/// Sets this process's limit for core dumps to zero (setrlimit(2)).
pub(crate) fn dump_no_core() -> Answer {
    const RLIMIT_CORE: usize = 4;
    let limit: [u64; 2] = [0, 0];
    // SAFETY: reads a `struct rlimit` on this stack.
    unsafe { call(libc::SYS_setrlimit, [RLIMIT_CORE, limit.as_ptr().addr(), 0, 0, 0, 0]) }
}

/// Leaves a real-time policy for the ordinary one (`sched_setscheduler(2)`).
pub(crate) fn schedule_as_ordinary() -> Answer {
    // SAFETY: takes numbers only.
    let policy = unsafe { call(libc::SYS_sched_getscheduler, [0; 6]) }?;
    if policy == 0 || policy == 3 || policy == 5 {
        // SCHED_OTHER, SCHED_BATCH and SCHED_IDLE are ordinary enough.
        return Ok(0);
    }
    let parameter = 0_i32;
    let address = std::ptr::from_ref(&parameter).addr();
    // SAFETY: reads a `struct sched_param` on this stack.
    unsafe { call(libc::SYS_sched_setscheduler, [0, 0, address, 0, 0, 0]) }
}

/// The number of this process.
pub(crate) fn own_pid() -> i32 {
    // SAFETY: takes no argument.
    let pid = unsafe { call(libc::SYS_getpid, [0; 6]) };
    pid.map_or(0, |pid| i32::try_from(pid).unwrap_or(0))
}

/// The number of this process's parent, 0 if that is outside of its PID namespace.
pub(crate) fn parent_pid() -> i32 {
    // SAFETY: takes no argument.
    let pid = unsafe { call(libc::SYS_getppid, [0; 6]) };
    pid.map_or(0, |pid| i32::try_from(pid).unwrap_or(0))
}

/// pidfd_open(2) (Linux 5.3)
pub(crate) fn open_process(pid: i32) -> Result<i32, Errno> {
    // SAFETY: takes numbers only.
    let fd = unsafe { call(libc::SYS_pidfd_open, [descriptor(pid), 0, 0, 0, 0, 0]) }?;
    i32::try_from(fd).map_err(|_| libc::EBADF)
}

/// Opens a file for reading, not to be waited for (open(2)).
pub(crate) fn open(path: &CStr) -> Result<i32, Errno> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let arguments = [descriptor(libc::AT_FDCWD), path.as_ptr().addr(), descriptor(flags), 0, 0, 0];
    // SAFETY: reads the path, which is a borrowed C string.
    let fd = unsafe { call(libc::SYS_openat, arguments) }?;
    i32::try_from(fd).map_err(|_| libc::EBADF)
}

/// Reads into `buffer`, and returns how many bytes; none at the end (read(2)).
pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Answer {
    let arguments = [descriptor(fd), buffer.as_mut_ptr().addr(), buffer.len(), 0, 0, 0];
    // SAFETY: writes to the buffer only, which is borrowed exclusively.
    unsafe { call(libc::SYS_read, arguments) }
}

/// Closes a descriptor (close(2)).
///
/// # Safety
/// It must be the caller's own.
pub(crate) unsafe fn close(fd: i32) {
    // SAFETY: the caller answers for the descriptor. An error leaves nothing to be done.
    let _ = unsafe { call(libc::SYS_close, [descriptor(fd), 0, 0, 0, 0, 0]) };
}

/// Whether this address space is used by this task alone, and by no other task of any process:
/// unshare(2) with `CLONE_VM`, which does nothing else but check that.
///
/// Costs 0.2 us if so, and up to 20 ns for each process of the host if not.
///
/// # Errors
/// `EPERM` or `ENOSYS` under a seccomp filter that forbids it.
pub(crate) fn is_alone() -> Result<bool, Errno> {
    const CLONE_VM: usize = 0x100;
    // SAFETY: takes numbers only, and changes nothing.
    match unsafe { call(libc::SYS_unshare, [CLONE_VM, 0, 0, 0, 0, 0]) } {
        Ok(_) => Ok(true),
        Err(libc::EINVAL) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Discards pages of this address space, locked ones too (`MADV_DONTNEED_LOCKED`, Linux 5.18;
/// before, `MADV_DONTNEED`, which leaves those).
///
/// # Safety
/// Nobody needs them any more.
pub(crate) unsafe fn discard(start: usize, length: usize) -> Answer {
    const MADV_DONTNEED: usize = 4;
    const MADV_DONTNEED_LOCKED: usize = 24;
    let advise = |advice| {
        // SAFETY: the caller answers for the pages.
        unsafe { call(libc::SYS_madvise, [start, length, advice, 0, 0, 0]) }
    };
    match advise(MADV_DONTNEED_LOCKED) {
        Err(libc::EINVAL) => advise(MADV_DONTNEED),
        answer => answer,
    }
}

/// One descriptor of [`poll`], or none (-1).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) fd: i32,
    pub(crate) wanted: i16,
    pub(crate) seen: i16,
}

/// Waits until one of the descriptors is ready or the time is over (ppoll(2)).
pub(crate) fn poll(watches: &mut [Watch], longest: Duration) -> Answer {
    let time = timespec(longest);
    let address = std::ptr::from_ref(&time).addr();
    let arguments = [watches.as_mut_ptr().addr(), watches.len(), address, 0, 0, 0];
    // SAFETY: `Watch` is `struct pollfd`; the slice is borrowed exclusively, the time is on this
    // stack.
    unsafe { call(libc::SYS_ppoll, arguments) }
}

fn timespec(time: Duration) -> [i64; 2] {
    [time.as_secs().cast_signed(), i64::from(time.subsec_nanos())]
}

/// The time of the monotonic clock, by system call (clock_gettime(2)).
pub(crate) fn now() -> Duration {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0_i64; 2];
    let arguments = [CLOCK_MONOTONIC, time.as_mut_ptr().addr(), 0, 0, 0, 0];
    // SAFETY: writes a `struct timespec` on this stack.
    let _ = unsafe { call(libc::SYS_clock_gettime, arguments) };
    let [seconds, nanoseconds] = time.map(i64::cast_unsigned);
    Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds))
}

/// Waits while `word` has this value, at most so long; may return early (futex(2)). Works between
/// the processes that share this address space, and between its threads.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, longest: Duration) {
    let time = timespec(longest);
    let address = std::ptr::from_ref(&time).addr();
    let arguments = [word.as_ptr().addr(), 0, value as usize, address, 0, 0];
    // SAFETY: FUTEX_WAIT (0) reads a word that is borrowed and a time on this stack.
    let _ = unsafe { call(libc::SYS_futex, arguments) };
}

/// Wakes all who wait at `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    const FUTEX_WAKE: usize = 1;
    let everybody = i32::MAX.cast_unsigned() as usize;
    let arguments = [word.as_ptr().addr(), FUTEX_WAKE, everybody, 0, 0, 0];
    // SAFETY: only the word's address is used.
    let _ = unsafe { call(libc::SYS_futex, arguments) };
}

/// Sets the signals that this thread lets wait, and returns those from before (sigprocmask(2)).
/// Unlike a libc's function this one knows no exceptions.
///
/// # Safety
/// The caller puts them back, or is the only one to run in this thread from now on.
pub(crate) unsafe fn block_signals(blocked: u64) -> Result<u64, Errno> {
    const SIG_SETMASK: usize = 2;
    let mut before = 0_u64;
    let (new, old) = (std::ptr::from_ref(&blocked).addr(), std::ptr::from_mut(&mut before).addr());
    // SAFETY: reads and writes kernel signal sets of 8 bytes on this stack.
    unsafe { call(libc::SYS_rt_sigprocmask, [SIG_SETMASK, new, old, 8, 0, 0]) }?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_errors() {
        assert_eq!(answer(0), Ok(0));
        assert_eq!(answer(-1), Err(libc::EPERM));
        assert_eq!(answer(-4095), Err(4095));
        assert!(answer(-4096).is_ok());
    }

    #[test]
    fn calls_reach_the_kernel() {
        assert_eq!(own_pid().cast_unsigned(), std::process::id());
        assert_eq!(open(c"/nowhere"), Err(libc::ENOENT));
        let before = now();
        wait_while(&AtomicU32::new(7), 7, Duration::from_millis(2));
        assert!(now() - before >= Duration::from_millis(2));
    }

    #[test]
    fn a_program_with_threads_is_not_alone_in_its_memory() {
        // Tests run in a thread of their own, beside the first one.
        assert_eq!(is_alone(), Ok(false));
    }
}
