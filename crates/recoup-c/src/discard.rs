//! `recoup_discard` and what belongs to it.

#![expect(unsafe_code, reason = "C hands over raw pointers and lengths")]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use recoup_rust::discard::Released;
use recoup_rust::{Discarder, SplitPolicy};
use recoup_sys::own::Backing;
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, PageIdx, PageRange};

use crate::error::{INVALID, status};

/// Split at once: nothing that was given back stays charged.
pub const RECOUP_SYNC: u64 = 0;
/// Leave it to the kernel, which splits when memory gets short.
pub const RECOUP_DEFERRED: u64 = u64::MAX;

/// Private anonymous memory.
pub const RECOUP_PRIVATE: u32 = 0;
/// Shared memory: memfd, tmpfs, System V, shared anonymous.
pub const RECOUP_SHARED: u32 = 1;
/// Private hugetlb memory of 2 MiB pages; whole pages only.
pub const RECOUP_HUGETLB_2M: u32 = 2;
/// Private hugetlb memory of 1 GiB pages; whole pages only.
pub const RECOUP_HUGETLB_1G: u32 = 3;
/// Shared hugetlb memory of 2 MiB pages; whole pages only.
pub const RECOUP_HUGETLB_2M_SHARED: u32 = 4;
/// Shared hugetlb memory of 1 GiB pages; whole pages only.
pub const RECOUP_HUGETLB_1G_SHARED: u32 = 5;

pub(crate) fn backing(kind: u32) -> Option<Backing> {
    Some(match kind {
        RECOUP_PRIVATE => Backing::Private,
        RECOUP_SHARED => Backing::Shared,
        RECOUP_HUGETLB_2M => Backing::HugeTlbPrivate(BLOCK),
        RECOUP_HUGETLB_1G => Backing::HugeTlbPrivate(PMD_TABLE_SPAN),
        RECOUP_HUGETLB_2M_SHARED => Backing::HugeTlbShared(BLOCK),
        RECOUP_HUGETLB_1G_SHARED => Backing::HugeTlbShared(PMD_TABLE_SPAN),
        _ => return None,
    })
}

pub(crate) fn kind(backing: Backing) -> u32 {
    match backing {
        Backing::Private => RECOUP_PRIVATE,
        Backing::Shared => RECOUP_SHARED,
        Backing::HugeTlbPrivate(BLOCK) => RECOUP_HUGETLB_2M,
        Backing::HugeTlbPrivate(_) => RECOUP_HUGETLB_1G,
        Backing::HugeTlbShared(BLOCK) => RECOUP_HUGETLB_2M_SHARED,
        Backing::HugeTlbShared(_) => RECOUP_HUGETLB_1G_SHARED,
    }
}

pub(crate) fn policy(bound: u64) -> SplitPolicy {
    match bound {
        RECOUP_SYNC => SplitPolicy::Sync,
        RECOUP_DEFERRED => SplitPolicy::Deferred,
        bytes => SplitPolicy::Bounded(Bytes(bytes)),
    }
}

/// Gives memory back, and knows which huge pages still wait for a split. One serves all threads.
///
/// It asks `malloc` for some hundred bytes now and then, also within recoup_discard().
#[expect(non_camel_case_types, reason = "C's name")]
pub struct recoup_discarder(pub(crate) Arc<Discarder>);

/// Makes one. Never NULL. End it with recoup_discarder_free().
#[unsafe(no_mangle)]
pub extern "C" fn recoup_discarder_new() -> *mut recoup_discarder {
    Box::into_raw(Box::new(recoup_discarder(Arc::new(Discarder::new()))))
}

/// Ends one, which no other thread uses any more. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_discarder_free(discarder: *mut recoup_discarder) {
    if !discarder.is_null() {
        // SAFETY: the caller hands over what `recoup_discarder_new` made, which is its alone.
        drop(unsafe { Box::from_raw(discarder) });
    }
}

/// Gives the whole pages among `length` bytes from `start` back to the kernel; they read as zero from
/// then on. Huge pages of which a part stays are split:
/// - `bound` = RECOUP_SYNC: at once,
/// - `bound` = RECOUP_DEFERRED: when the kernel likes to,
/// - else: once more than `bound` bytes wait for that.
///
/// The pages are mapped, of the kind that `backing` says (RECOUP_PRIVATE, ...), and nobody reads or
/// writes them during the call; of shared memory, in no process.
///
/// It calls `malloc` and `free`. So where an allocator calls it from a hook (a purge, an extent's end),
/// these must not be that allocator's own, unless they go to another arena that doesn't use the hook:
/// else they wait for locks that the hook's caller holds, or call the hook again.
///
/// Returns 0, or EINVAL for locked memory or another kind of memory, ENOMEM for unmapped memory: what
/// was given back before stays given back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_discard(
    discarder: *const recoup_discarder,
    start: *mut c_void,
    length: usize,
    backing: u32,
    bound: u64,
) -> c_int {
    // SAFETY: NULL, or what `recoup_discarder_new` made and nobody ended.
    let discarder = unsafe { discarder.as_ref() };
    let (Some(discarder), Some(backing)) = (discarder, self::backing(backing)) else {
        return INVALID;
    };
    // SAFETY: the caller promises just this, see above.
    let released = unsafe { Released::new(start.cast(), length, backing) };
    status(discarder.0.discard(released, policy(bound)))
}

/// The most bytes that were given back and are still charged for want of a split. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_waiting(discarder: *const recoup_discarder) -> u64 {
    // SAFETY: NULL, or what `recoup_discarder_new` made and nobody ended.
    unsafe { discarder.as_ref() }.map_or(0, |discarder| discarder.0.waiting().0)
}

/// Splits until no more than `bound` bytes wait: for a loop that has time. Returns 0, or EINVAL for
/// NULL or locked memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_split_waiting(
    discarder: *const recoup_discarder,
    bound: u64,
) -> c_int {
    // SAFETY: NULL, or what `recoup_discarder_new` made and nobody ended.
    let discarder = unsafe { discarder.as_ref() };
    discarder.map_or(INVALID, |discarder| status(discarder.0.split_waiting(Bytes(bound))))
}

/// Forgets what is known about `length` bytes from `start`: they are no longer mapped. Does nothing
/// for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_forget(
    discarder: *const recoup_discarder,
    start: *const c_void,
    length: usize,
) {
    let first = start.addr() as u64;
    let end = PageIdx::containing(first.saturating_add(length as u64));
    let range = PageRange { start: PageIdx::containing(first), end };
    // SAFETY: NULL, or what `recoup_discarder_new` made and nobody ended.
    if let Some(discarder) = unsafe { discarder.as_ref() } {
        discarder.0.forget(range);
    }
}
