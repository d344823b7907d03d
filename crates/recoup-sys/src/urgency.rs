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
    const OTHER: u32 = 0;
    const ROUND_ROBIN: u32 = 2;
    const RESET_ON_FORK: u64 = 1;
    const SLICE: Duration = Duration::from_micros(100);
    for (policy, priority) in [(ROUND_ROBIN, 1), (OTHER, 0)] {
        let attributes = Attributes {
            size: 48,
            policy,
            flags: RESET_ON_FORK,
            nice: 0,
            priority,
            runtime: u64::try_from(SLICE.as_nanos()).unwrap_or(0),
            deadline: 0,
            period: 0,
        };
        // SAFETY: the attributes have the size they say and live as long as the call, which
        // touches no other memory.
        let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        if done == 0 {
            return;
        }
    }
}
