//! How soon a thread that wakes up gets a processor: sched_setattr(2), sched(7).

#![expect(unsafe_code, reason = "sched_setattr(2) has no safe wrapper")]

use std::time::Duration;

/// `struct sched_attr` of linux/sched/types.h, first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<Attributes>() == 48);

/// Says that the calling thread works in short bursts and is waited for. With `CAP_SYS_NICE` (or
/// `RLIMIT_RTPRIO`) it gets the lowest real-time priority, for itself alone, not for what it forks; else it asks for
/// the shortest slices (Linux 6.12; the scheduler then runs it sooner when it wakes). Whatever is
/// refused stays as it was; allocates nothing.
pub fn short_bursts() {
    const ROUND_ROBIN: u32 = 2;
    const SLICE: Duration = Duration::from_micros(100);
    let slice = u64::try_from(SLICE.as_nanos()).unwrap_or(0);
    let soon = Attributes { policy: ROUND_ROBIN, priority: 1, ..Attributes::ordinary() };
    if !soon.take_effect() {
        Attributes { runtime: slice, ..Attributes::ordinary() }.take_effect();
    }
}

impl Attributes {
    /// No real time, slices as the kernel likes them, and the niceness that the thread has.
    fn ordinary() -> Self {
        const OTHER: u32 = 0;
        const RESET_ON_FORK: u64 = 1;
        Self {
            size: 48,
            policy: OTHER,
            flags: RESET_ON_FORK,
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
        }
    }

    /// Whether the kernel took them for the calling thread.
    fn take_effect(&self) -> bool {
        // SAFETY: the attributes have the size they say and live as long as the call, which
        // touches no other memory.
        let done =
            unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(self), 0) };
        done == 0
    }
}

/// Lets others run for a while: a bare nanosleep(2). A signal may cut it short.
pub fn rest(time: Duration) {
    if let Ok(time) = rustix::thread::Timespec::try_from(time) {
        // Cut short or refused: a shorter rest harms nobody.
        let _ = rustix::thread::nanosleep(&time);
    }
}
