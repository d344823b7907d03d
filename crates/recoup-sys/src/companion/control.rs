//! What the program and its companion share.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize};
use std::time::Duration;

use super::area::Place;

/// The most tasks that free memory at the end, the companion included.
pub const MOST_WORKERS: usize = 16;
/// Slices that are shared out at a time.
pub(super) const PORTION: usize = 4096;

/// The companion has not got as far as deciding.
pub(super) const STARTING: u32 = 0;
/// It watches.
pub(super) const READY: u32 = 1;
/// It cannot work here, and ends: the step and the `errno` say why.
pub(super) const REFUSED: u32 = 2;

/// The control block. Written by the program before the companion starts; from then on only the
/// atomic words change. The companion is the only one to write them, apart from its workers.
#[derive(Debug)]
pub(super) struct Control {
    /// `STARTING`, then `READY` or `REFUSED`: stored with Release when all before it is done, and
    /// waited for by the program as a futex (Acquire).
    pub(super) state: AtomicU32,
    /// The step that failed: an index into [`super::life::STEPS`].
    pub(super) step: AtomicU32,
    /// Its `errno`.
    pub(super) errno: AtomicI32,
    pub(super) orders: Orders,
    pub(super) portion: Portion,
}

/// What the program tells the companion.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) main: i32,
    /// `/proc/PID/fd/N` of the pipe's end for reading, as a C string.
    pub(super) pipe: [u8; 48],
    /// The companion's name, as a C string.
    pub(super) name: [u8; 16],
    pub(super) check_every: Duration,
    pub(super) task: Option<Task>,
    /// The companion's own memory, which stays.
    pub(super) area: Range<usize>,
    /// Where workers run, as many as are allowed.
    pub(super) places: [Option<Place>; MOST_WORKERS],
}

/// Slices of memory that nobody needs any more, handed out one by one. The companion fills it while
/// no worker exists.
#[derive(Debug)]
pub(super) struct Portion {
    /// The next slice to take. Relaxed: each number is handed out once, and the slices themselves
    /// were written before the workers were made.
    pub(super) next: AtomicUsize,
    pub(super) filled: AtomicUsize,
    pub(super) starts: [AtomicUsize; PORTION],
    pub(super) lengths: [AtomicUsize; PORTION],
    /// The workers' numbers, each cleared by the kernel when its worker has ended.
    pub(super) workers: [AtomicU32; MOST_WORKERS],
}

/// Work that the companion does now and then as long as the program lives.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub(super) run: unsafe extern "C" fn(*mut c_void) -> u64,
    pub(super) state: *mut c_void,
}

// SAFETY: whoever made the task promised that it may run in another task than the one that made it.
#[expect(unsafe_code, reason = "the maker of a task promises that it may run elsewhere")]
unsafe impl Send for Task {}

impl Task {
    /// Calls `run(state)` in the companion, at once and again as many nanoseconds later as it returned.
    /// While it runs, the program's end goes unnoticed: it should take less than 100 ms.
    ///
    /// # Safety
    /// Until the companion has ended, `state` points to what `run` expects, and the code of `run`
    /// stays loaded. `run` executes beside all threads of the program, which may have stopped or
    /// ended at any instruction, in a process of its own without thread-local storage. So it must
    /// not: allocate or free by the program's allocator; take any lock that the program also takes;
    /// use thread-local storage (so no libc wrapper that sets `errno`, no `std::thread`, no
    /// printing); panic or unwind; use the program's descriptors, which it doesn't have (it may open
    /// its own); use more than 128 KiB of stack. What it changes in the program's memory must be
    /// right if it, or the program, is killed at any instruction.
    #[must_use]
    #[expect(unsafe_code, reason = "the maker of a task promises what no check can")]
    pub unsafe fn new(run: unsafe extern "C" fn(*mut c_void) -> u64, state: *mut c_void) -> Self {
        Self { run, state }
    }
}
