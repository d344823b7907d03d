//! `recoup_sweep` and what keeps page tables few.

#![expect(unsafe_code, reason = "C hands over raw pointers and lengths")]

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use recoup_rust::tables::{Keeper, Limits, Mode, Outcome, Refused, Regulator, Settled, Sweeper};
use recoup_sys::units::PAGE_BYTES;
use recoup_sys::{Bytes, Errno, Features, PageIdx, PageRange};

use crate::error::{INVALID, NOT_SUPPORTED, errno};
use crate::owned::huge_pages;
use crate::reason::tell;

/// A sweep looks first, and fences only where empty page tables are.
pub const RECOUP_LOOKING: u32 = 0;
/// A sweep fences whole mappings, so that no page table is added there meanwhile.
pub const RECOUP_FENCING: u32 = 1;

/// Limits on this process's page tables.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct recoup_limits {
    /// Over so many bytes of page tables, empty ones are freed in the background.
    pub soft: u64,
    /// Before so many bytes are reached, those who add page tables are held up while others are freed.
    /// Page tables that are needed can exceed it. Hard only where the thread that keeps it gets real-time
    /// priority (CAP_SYS_NICE, or RLIMIT_RTPRIO), and where discards free page tables (Linux 6.14): without,
    /// it waits for a processor like any other, or for the mmap lock, and page tables overshoot meanwhile.
    pub hard: u64,
    /// How many microseconds a thread may wait at a fence, about; 0: 10000.
    pub max_pause_us: u64,
}

/// What one or more sweeps did.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct recoup_swept {
    /// Bytes of page tables (VmPTE) before the first.
    pub before: u64,
    /// Bytes of page tables after the last. The kernel frees some of them milliseconds late.
    pub after: u64,
    /// Bytes of page tables that were seen to be freed, rather too few than too many.
    pub freed: u64,
    /// How often page tables were looked for.
    pub sweeps: u64,
    /// How many fences were raised.
    pub fences: u64,
    /// How many of them were up for longer than allowed.
    pub over_budget: u64,
    /// Nanoseconds that the longest was up.
    pub longest_ns: u64,
    /// Ranges that the kernel refused to fence or to free from.
    pub left_alone: u64,
}

impl From<Outcome> for recoup_swept {
    fn from(outcome: Outcome) -> Self {
        Self {
            before: outcome.before.0,
            after: outcome.after.0,
            freed: outcome.freed.0,
            sweeps: outcome.sweeps,
            fences: outcome.pauses.count(),
            over_budget: outcome.pauses.over_budget,
            longest_ns: outcome.pauses.longest.as_nanos().try_into().unwrap_or(u64::MAX),
            left_alone: outcome.left_alone,
        }
    }
}

/// Frees page tables that map nothing, at the caller's wish. For one thread at a time.
#[expect(non_camel_case_types, reason = "C's name")]
pub struct recoup_sweeper(Sweeper);

/// Keeps limits on page tables, step by step, for one who has a thread for it. For one thread at a time.
#[expect(non_camel_case_types, reason = "C's name")]
pub struct recoup_regulator(Regulator);

/// A thread that keeps limits on page tables.
#[expect(non_camel_case_types, reason = "C's name")]
pub struct recoup_keeper(Keeper);

/// The mappings stay: as long as they are swept, none is unmapped, moved away or mapped over *and its place
/// taken by other memory*: not by munmap, mremap and mmap(MAP_FIXED), nor by an allocator that calls these,
/// as most do. So it is for ranges that one has mapped oneself.
pub const RECOUP_MAPPINGS_STAY: u32 = 0;
/// They stay, and are plain: private anonymous memory, readable and writable, mapped with MAP_NORESERVE, with
/// no other attributes than `huge` says, no memory policy either, and nobody calls mprotect, mlock, mlockall or
/// advice that lasts for them. Then page tables can be freed by mapping anew, which Linux before 6.14 needs.
pub const RECOUP_MAPPINGS_PLAIN: u32 = 1;

/// Addresses that may be swept, and what is promised of them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct recoup_settled {
    /// The first byte; NULL with SIZE_MAX as `length`: all of the process.
    pub start: *const c_void,
    /// How many bytes.
    pub length: usize,
    /// RECOUP_MAPPINGS_STAY or RECOUP_MAPPINGS_PLAIN.
    pub promise: u32,
    /// Of plain mappings: RECOUP_HUGE_DEFAULT, RECOUP_HUGE_WANTED or RECOUP_HUGE_UNWANTED.
    pub huge: u32,
}

/// The promise as the library takes it; nothing if it is none.
///
/// # Safety
/// `promise` is NULL or the caller's own, who keeps it.
unsafe fn settled(promise: *const recoup_settled) -> Option<Settled> {
    // SAFETY: NULL, or the caller's own.
    let &recoup_settled { start, length, promise, huge } = unsafe { promise.as_ref() }?;
    let first = start.addr() as u64;
    let pages = PageRange {
        start: PageIdx::containing(first.saturating_add(PAGE_BYTES as u64 - 1)),
        end: PageIdx::containing(first.saturating_add(length as u64)),
    };
    let all = start.is_null() && length == usize::MAX;
    match promise {
        // SAFETY: the caller promises it for all of the process.
        RECOUP_MAPPINGS_STAY if all => Some(unsafe { Settled::everywhere() }),
        // SAFETY: the caller promises it for these pages.
        RECOUP_MAPPINGS_STAY => Some(unsafe { Settled::new(pages) }),
        // SAFETY: as before.
        RECOUP_MAPPINGS_PLAIN if !all => Some(unsafe { Settled::plain(pages, huge_pages(huge)?) }),
        _ => None,
    }
}

fn pause(microseconds: u64) -> Duration {
    match microseconds {
        0 => Limits::DEFAULT_MAX_PAUSE,
        some => Duration::from_micros(some),
    }
}

impl From<recoup_limits> for Limits {
    fn from(limits: recoup_limits) -> Self {
        let recoup_limits { soft, hard, max_pause_us } = limits;
        Self { soft: Bytes(soft), hard: Bytes(hard), max_pause: pause(max_pause_us) }
    }
}

/// Makes a value by the kernel's features and hands it out, or says why there is none.
///
/// # Safety
/// `answer` is not NULL and, like the `length` bytes at `reason`, the caller's own.
unsafe fn hand_out<T>(
    make: impl FnOnce(&Features) -> Result<T, Refused>,
    answer: *mut *mut T,
    reason: *mut c_char,
    length: usize,
) -> c_int {
    let (made, number, text) = match Features::probe() {
        Err(error) => (None, errno(&error), error.to_string()),
        Ok(features) => match make(&features) {
            Err(refused) => (None, NOT_SUPPORTED, refused.to_string()),
            Ok(made) => (Some(made), 0, String::new()),
        },
    };
    // SAFETY: the caller answers for the bytes.
    unsafe { tell(&text, reason, length) };
    let place = made.map_or(std::ptr::null_mut(), |made| Box::into_raw(Box::new(made)));
    // SAFETY: the caller answers for it.
    unsafe { answer.write(place) };
    number
}

/// Ends what was handed out.
///
/// # Safety
/// `place` is NULL, or was handed out and not ended, and nobody uses it any more.
unsafe fn end<T>(place: *mut T) {
    if !place.is_null() {
        // SAFETY: the caller hands over what `hand_out` made.
        drop(unsafe { Box::from_raw(place) });
    }
}

/// Writes what was done, unless `answer` is NULL.
///
/// # Safety
/// `answer` is NULL or the caller's own; it need not be initialised.
unsafe fn write(outcome: Result<Outcome, Errno>, answer: *mut recoup_swept) -> c_int {
    match outcome {
        Err(error) => error.raw_os_error(),
        Ok(_) if answer.is_null() => 0,
        Ok(outcome) => {
            // SAFETY: the caller answers for it.
            unsafe { answer.write(outcome.into()) };
            0
        }
    }
}

/// Makes a sweeper for `pages`, of which what it says there is promised until it is freed.
///
/// `max_pause_us` says how many microseconds a thread may wait for a sweep, about; 0: 10000.
///
/// Returns 0 and writes the sweeper to `answer`. Else EINVAL for NULL as `answer` or `pages`, or for a promise
/// that is none (all of a process is never plain); EOPNOTSUPP where the kernel or its privileges lack
/// something (Linux 6.14 with CONFIG_PT_RECLAIM, or 6.7 where mappings are plain, and a userfaultfd for
/// kernel faults), or an errno of the files in /proc: NULL is written to `answer` then. The reason is written to the
/// `reason_length` bytes at `reason`, cut to fit and ended by a zero (an empty text for 0), unless that is
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_sweeper_new(
    pages: *const recoup_settled,
    max_pause_us: u64,
    answer: *mut *mut recoup_sweeper,
    reason: *mut c_char,
    reason_length: usize,
) -> c_int {
    if answer.is_null() {
        return INVALID;
    }
    // SAFETY: the caller promises just this, see above.
    let Some(settled) = (unsafe { settled(pages) }) else { return INVALID };
    let make = |features: &Features| {
        Sweeper::new(settled, pause(max_pause_us), features).map(recoup_sweeper)
    };
    // SAFETY: not NULL; the caller's own.
    unsafe { hand_out(make, answer, reason, reason_length) }
}

/// Frees page tables that map nothing, or nothing but the zero page, until no more than `goal` bytes are left
/// or all of the range was seen once. `mode` is RECOUP_LOOKING or, where there are too many,
/// RECOUP_FENCING.
///
/// Whoever touches a page meanwhile that is not there may wait, system calls included. Returns 0 and fills
/// `answer` in, unless that is NULL; or an errno: EINVAL for NULL or an unknown mode, else that of a file in
/// /proc/self.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_sweep(
    sweeper: *mut recoup_sweeper,
    mode: u32,
    goal: u64,
    answer: *mut recoup_swept,
) -> c_int {
    let mode = match mode {
        RECOUP_LOOKING => Mode::Looking,
        RECOUP_FENCING => Mode::Fencing,
        _ => return INVALID,
    };
    // SAFETY: NULL, or what `recoup_sweeper_new` made, used by one thread at a time.
    let Some(sweeper) = (unsafe { sweeper.as_mut() }) else { return INVALID };
    // SAFETY: the caller's own.
    unsafe { write(sweeper.0.sweep(mode, Bytes(goal)), answer) }
}

/// Ends a sweeper. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_sweeper_free(sweeper: *mut recoup_sweeper) {
    // SAFETY: the caller's, who has done with it.
    unsafe { end(sweeper) }
}

/// Makes what keeps `limits` on page tables, step by step, for a program that has a thread for it.
/// Everything else is as for recoup_sweeper_new(); EINVAL also for NULL as `limits`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_regulator_new(
    pages: *const recoup_settled,
    limits: *const recoup_limits,
    answer: *mut *mut recoup_regulator,
    reason: *mut c_char,
    reason_length: usize,
) -> c_int {
    // SAFETY: NULL, or the caller's own.
    let (Some(&limits), false) = (unsafe { limits.as_ref() }, answer.is_null()) else {
        return INVALID;
    };
    // SAFETY: the caller promises just this, see recoup_sweeper_new().
    let Some(settled) = (unsafe { settled(pages) }) else { return INVALID };
    let make = |features: &Features| {
        Regulator::new(settled, limits.into(), features).map(recoup_regulator)
    };
    // SAFETY: not NULL; the caller's own.
    unsafe { hand_out(make, answer, reason, reason_length) }
}

/// Sees how many page tables there are, and frees some if they are too many. Writes what was done to
/// `answer` and, to `wait_us`, after how many microseconds the next step is due, unless these are NULL.
/// It allocates nothing. Returns 0, or an errno: EINVAL for NULL, else that of a file in /proc/self.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_regulator_step(
    regulator: *mut recoup_regulator,
    answer: *mut recoup_swept,
    wait_us: *mut u64,
) -> c_int {
    // SAFETY: NULL, or what `recoup_regulator_new` made, used by one thread at a time.
    let Some(regulator) = (unsafe { regulator.as_mut() }) else { return INVALID };
    let step = regulator.0.step();
    if let Ok(step) = &step
        && !wait_us.is_null()
    {
        let wait = step.wait.as_micros().try_into().unwrap_or(u64::MAX);
        // SAFETY: the caller's own.
        unsafe { wait_us.write(wait) };
    }
    // SAFETY: the caller's own.
    unsafe { write(step.map(|step| step.outcome), answer) }
}

/// Ends what keeps limits. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_regulator_free(regulator: *mut recoup_regulator) {
    // SAFETY: the caller's, who has done with it.
    unsafe { end(regulator) }
}

/// Starts a thread that keeps `limits` on page tables until recoup_keeper_stop(), and another one that helps
/// it, if it can. Everything else is as for recoup_sweeper_new(); EINVAL also for NULL as `limits`, EOPNOTSUPP
/// also where no thread can be made. They ask for the lowest real-time priority (SCHED_RR 1), if they may. A forked child has no such thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_keeper_start(
    pages: *const recoup_settled,
    limits: *const recoup_limits,
    answer: *mut *mut recoup_keeper,
    reason: *mut c_char,
    reason_length: usize,
) -> c_int {
    // SAFETY: NULL, or the caller's own.
    let (Some(&limits), false) = (unsafe { limits.as_ref() }, answer.is_null()) else {
        return INVALID;
    };
    // SAFETY: the caller promises just this, see recoup_sweeper_new().
    let Some(settled) = (unsafe { settled(pages) }) else { return INVALID };
    let make =
        |features: &Features| Keeper::start(settled, limits.into(), features).map(recoup_keeper);
    // SAFETY: not NULL; the caller's own.
    unsafe { hand_out(make, answer, reason, reason_length) }
}

/// What a keeper has done so far, all steps together. Returns 0, or EINVAL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_keeper_outcome(
    keeper: *const recoup_keeper,
    answer: *mut recoup_swept,
) -> c_int {
    // SAFETY: NULL, or what `recoup_keeper_start` made and nobody stopped.
    let Some(keeper) = (unsafe { keeper.as_ref() }) else { return INVALID };
    // SAFETY: the caller's own.
    unsafe { write(Ok(keeper.0.outcome()), answer) }
}

/// Ends a keeper and waits for its thread. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_keeper_stop(keeper: *mut recoup_keeper) {
    // SAFETY: the caller's, who has done with it.
    unsafe { end(keeper) }
}
