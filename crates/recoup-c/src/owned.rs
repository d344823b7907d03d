//! `recoup_owned_map`: a range with one owner, of which page tables go back with the memory.

#![expect(unsafe_code, reason = "C hands over raw pointers and lengths")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use recoup_rust::discard::{Discarder, OwnedRange, table_reclaim};
use recoup_sys::own::{Backing, Released};
use recoup_sys::reserved::{HugePages, Reserved};
use recoup_sys::units::PAGE_BYTES;
use recoup_sys::{Bytes, Features, PageIdx, PageRange};

use crate::discard::{policy, recoup_discarder};
use crate::error::{INVALID, errno};

/// Huge pages as the host's settings say.
pub const RECOUP_HUGE_DEFAULT: u32 = 0;
/// Huge pages wanted (MADV_HUGEPAGE).
pub const RECOUP_HUGE_WANTED: u32 = 1;
/// No huge pages (MADV_NOHUGEPAGE).
pub const RECOUP_HUGE_UNWANTED: u32 = 2;

pub(crate) fn huge_pages(kind: u32) -> Option<HugePages> {
    Some(match kind {
        RECOUP_HUGE_DEFAULT => HugePages::HostDefault,
        RECOUP_HUGE_WANTED => HugePages::Wanted,
        RECOUP_HUGE_UNWANTED => HugePages::Unwanted,
        _ => return None,
    })
}

/// Private anonymous memory whose owner gives pages back and takes them again. One serves all threads.
#[expect(non_camel_case_types, reason = "C's name")]
pub struct recoup_owned(OwnedRange);

/// Page tables that went with what was given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct recoup_tables_freed {
    /// Page tables of 2 MiB.
    pub blocks: u64,
    /// Those of a whole gigabyte, with the tables below them.
    pub gigabytes: u64,
}

/// Makes a range and hands it out.
///
/// # Safety
/// `answer` is NULL or the caller's own; `discarder` is NULL or lives.
unsafe fn hand_out(
    discarder: *const recoup_discarder,
    huge: u32,
    answer: *mut *mut recoup_owned,
    make: impl FnOnce(HugePages, Arc<Discarder>) -> recoup_sys::Result<OwnedRange>,
) -> c_int {
    // SAFETY: the caller answers for it.
    let discarder = unsafe { discarder.as_ref() };
    let (Some(discarder), Some(huge), false) = (discarder, huge_pages(huge), answer.is_null())
    else {
        return INVALID;
    };
    let (place, number) = match make(huge, Arc::clone(&discarder.0)) {
        Ok(range) => (Box::into_raw(Box::new(recoup_owned(range))), 0),
        Err(error) => (std::ptr::null_mut(), errno(&error)),
    };
    // SAFETY: not NULL; the caller's own.
    unsafe { answer.write(place) };
    number
}

/// Maps a range of `length` bytes, none of which is in use yet: recoup_owned_reuse() comes before the first
/// touch. Its splits are counted together with all others of `discarder`, which may be ended before it.
/// `huge` is RECOUP_HUGE_DEFAULT, RECOUP_HUGE_WANTED or RECOUP_HUGE_UNWANTED.
///
/// Returns 0 and writes the range to `answer`. Else EINVAL for NULL or an unknown kind, or that of mmap(2), and
/// then NULL is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_map(
    discarder: *const recoup_discarder,
    length: usize,
    huge: u32,
    answer: *mut *mut recoup_owned,
) -> c_int {
    let make = |huge, discarder| OwnedRange::map(Bytes(length as u64), huge, discarder);
    // SAFETY: the caller's own.
    unsafe { hand_out(discarder, huge, answer, make) }
}

/// Takes charge of `length` bytes from `start`, all of them in use. Until recoup_owned_free() they are
/// private anonymous memory, readable and writable, mapped by the caller (MAP_NORESERVE, or the mapping
/// falls to pieces) with no other attributes than `huge`, no memory policy either.
///
/// Returns as recoup_owned_map().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_take(
    discarder: *const recoup_discarder,
    start: *mut c_void,
    length: usize,
    huge: u32,
    answer: *mut *mut recoup_owned,
) -> c_int {
    let Some(start) = NonNull::new(start) else { return INVALID };
    let make = |huge, discarder| {
        let by = table_reclaim(&Features::probe()?);
        // SAFETY: the caller promises just this, see above and recoup_owned_discard().
        let reserved = unsafe { Reserved::from_raw(start.cast(), length, huge, by) };
        Ok(OwnedRange::new(reserved, discarder))
    };
    // SAFETY: the caller's own.
    unsafe { hand_out(discarder, huge, answer, make) }
}

/// The first byte of a range; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_start(owned: *const recoup_owned) -> *mut c_void {
    // SAFETY: NULL, or a range that nobody ended.
    let owned = unsafe { owned.as_ref() };
    owned.map_or(std::ptr::null_mut(), |owned| owned.0.reserved().start().cast())
}

/// The owner is about to use `length` bytes from `start`: this returns before one of them is touched.
/// Returns 0, or EINVAL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_reuse(
    owned: *const recoup_owned,
    start: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: NULL, or a range that nobody ended.
    let Some(owned) = (unsafe { owned.as_ref() }) else { return INVALID };
    let first = start.addr() as u64;
    let last = first.saturating_add(length as u64).saturating_add(PAGE_BYTES as u64 - 1);
    owned.0.reuse(PageRange { start: PageIdx::containing(first), end: PageIdx::containing(last) });
    0
}

/// Gives the whole pages among `length` bytes from `start` back, and with them the page tables of all 2 MiB,
/// and of all gigabytes, of which nothing is in use any more. Nobody touches them from the beginning of this
/// call on until a recoup_owned_reuse() that began after it has returned. `bound` is as for recoup_discard().
///
/// Returns 0 and fills `answer` in, unless that is NULL. Else EINVAL for NULL or locked memory, or that of
/// mmap(2), where page tables stay: everything else was done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_discard(
    owned: *const recoup_owned,
    start: *mut c_void,
    length: usize,
    bound: u64,
    answer: *mut recoup_tables_freed,
) -> c_int {
    // SAFETY: NULL, or a range that nobody ended.
    let Some(owned) = (unsafe { owned.as_ref() }) else { return INVALID };
    // SAFETY: nothing is given back through it; it only says which whole pages there are.
    let pages = unsafe { Released::new(start.cast(), length, Backing::Private) }.pages();
    match owned.0.discard(pages, policy(bound)) {
        Err(error) => errno(&error),
        Ok(_) if answer.is_null() => 0,
        Ok(freed) => {
            let freed = recoup_tables_freed { blocks: freed.blocks, gigabytes: freed.gigabytes };
            // SAFETY: the caller's own structure, which need not be initialised.
            unsafe { answer.write(freed) };
            0
        }
    }
}

/// Ends a range, which nobody uses any more: one of recoup_owned_map() is unmapped, one of
/// recoup_owned_take() stays as it is. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_owned_free(owned: *mut recoup_owned) {
    if !owned.is_null() {
        // SAFETY: the caller hands over what is its alone.
        drop(unsafe { Box::from_raw(owned) });
    }
}
