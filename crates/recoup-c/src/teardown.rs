//! `recoup_free_parallel`.

#![expect(unsafe_code, reason = "C hands over raw pointers and lengths")]

use std::ffi::{c_int, c_void};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use recoup_rust::teardown::{Freed, Options, Workers, free_parallel};
use recoup_sys::Bytes;
use recoup_sys::own::Released;

use crate::discard::{backing, kind};
use crate::error::{INVALID, errno};

/// Memory that nobody needs any more.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct recoup_range {
    /// Its first byte; pages that are covered only in part stay as they are.
    pub start: *mut c_void,
    /// Its bytes.
    pub length: usize,
    /// What it consists of: RECOUP_PRIVATE, ...
    pub backing: u32,
}

/// What became of memory that was to be freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct recoup_freed {
    /// Bytes given back to the kernel.
    pub freed: u64,
    /// Bytes in slices that were refused, whole or from some page on.
    pub refused: u64,
    /// Bytes that were not begun when it was cancelled; they are as they were.
    pub untouched: u64,
    /// How many ranges these are: at most as many as were to be freed.
    pub untouched_ranges: usize,
    /// The most threads that worked at once.
    pub workers: usize,
    /// The errno of the first refusal, or 0.
    pub error: c_int,
}

impl recoup_freed {
    fn new(freed: &Freed<'_>, untouched: &[recoup_range]) -> Self {
        let refused: Bytes = freed.failures.iter().map(|slice| slice.pages.length().bytes()).sum();
        Self {
            freed: freed.freed.0,
            refused: refused.0,
            untouched: untouched.iter().map(|range| range.length as u64).sum(),
            untouched_ranges: untouched.len(),
            workers: freed.workers,
            error: freed.failures.first().map_or(0, |slice| errno(&slice.error)),
        }
    }
}

/// What was not begun, in as few ranges as it can be: slices are begun in order, so that a part of one of the
/// caller's ranges may be left, and all those behind it.
fn untouched(freed: &Freed<'_>) -> Vec<recoup_range> {
    let mut ranges: Vec<recoup_range> = Vec::new();
    for part in &freed.untouched {
        let pages = part.pages();
        let start = usize::try_from(pages.start.address()).unwrap_or(usize::MAX);
        let length = usize::try_from(pages.length().bytes().0).unwrap_or(usize::MAX);
        let backing = kind(part.backing());
        let goes_on = |last: &&mut recoup_range| {
            last.start.addr() + last.length == start && last.backing == backing
        };
        match ranges.last_mut().filter(goes_on) {
            Some(last) => last.length += length,
            None => {
                let start = std::ptr::with_exposed_provenance_mut(start);
                ranges.push(recoup_range { start, length, backing });
            }
        }
    }
    ranges
}

/// Told after each slice how many bytes are done; anything but 0 cancels what is not yet begun.
#[expect(non_camel_case_types, reason = "C's name")]
pub type recoup_progress = Option<unsafe extern "C" fn(context: *mut c_void, done: u64) -> c_int>;

/// The caller's callback with its context.
struct Callback {
    call: unsafe extern "C" fn(*mut c_void, u64) -> c_int,
    context: *mut c_void,
}

// SAFETY: the caller of `recoup_free_parallel` promises that any thread may call it.
unsafe impl Send for Callback {}
// SAFETY: as above, several at once too.
unsafe impl Sync for Callback {}

impl Callback {
    fn tell(&self, done: Bytes) -> ControlFlow<()> {
        // SAFETY: the caller of `recoup_free_parallel`, which has not returned, promises that it
        // may be called with this context.
        match unsafe { (self.call)(self.context, done.0) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

/// Gives `count` ranges of memory back to the kernel by several threads, and waits for it; the memory
/// stays mapped and reads as zero. `workers` says how many threads, the caller's included; 0: as many
/// as still make it faster, at most one a processor.
///
/// The ranges are disjoint and mapped, and nobody reads or writes them during the call; of shared
/// memory, in no process. `progress` may be NULL; else it is called with `context` by whichever thread
/// has freed a slice, by several at once too. It is short, and neither throws nor longjmps.
///
/// `untouched` may be NULL; else it has room for `count` ranges, and is given those that were not begun when it
/// was cancelled, in the order of `ranges`; `answer` says how many.
///
/// Returns 0, also if cancelled, and fills `answer` in, unless that is NULL. Else the errno of the first
/// slice that was refused (EINVAL: locked memory, or of another kind; ENOMEM: unmapped memory); all
/// other slices were freed all the same. EINVAL, with nothing done and no answer, for an unknown kind or
/// NULL instead of ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_free_parallel(
    ranges: *const recoup_range,
    count: usize,
    workers: usize,
    progress: recoup_progress,
    context: *mut c_void,
    untouched: *mut recoup_range,
    answer: *mut recoup_freed,
) -> c_int {
    let ranges = match (ranges.is_null(), count) {
        (_, 0) => &[],
        (true, _) => return INVALID,
        // SAFETY: the caller hands over so many ranges, which stay as they are during the call.
        (false, count) => unsafe { std::slice::from_raw_parts(ranges, count) },
    };
    let released = ranges.iter().map(|range| {
        let backing = backing(range.backing)?;
        // SAFETY: the caller promises just this, see above.
        Some(unsafe { Released::new(range.start.cast(), range.length, backing) })
    });
    let Some(released) = released.collect::<Option<Vec<_>>>() else { return INVALID };
    let callback = progress.map(|call| Callback { call, context });
    let tell = |done| callback.as_ref().map_or(ControlFlow::Continue(()), |c| c.tell(done));
    let workers = NonZeroUsize::new(workers).map_or_else(Workers::default, Workers::Exactly);
    let freed = free_parallel(released, &Options { workers, progress: Some(&tell) });
    let left = self::untouched(&freed);
    if !untouched.is_null() {
        // SAFETY: the caller's own places, as many as it gave ranges; the source is other memory.
        unsafe { std::ptr::copy_nonoverlapping(left.as_ptr(), untouched, left.len().min(count)) };
    }
    let freed = recoup_freed::new(&freed, &left);
    if !answer.is_null() {
        // SAFETY: the caller's own structure, which need not be initialised.
        unsafe { answer.write(freed) };
    }
    freed.error
}
