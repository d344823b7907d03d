//! Frees an address space that nobody uses any more, by several tasks.
//!
//! What is discarded: private anonymous writable memory, in slices of about 32 MiB. What is left to
//! the kernel, which frees it when the last task ends: the companion's own memory, code and data of
//! the program (the companion runs on them), files, shared memory, hugetlb pages, what is small, and
//! the page tables.

#![expect(unsafe_code, reason = "memory of a dead program is discarded here")]

use std::ffi::c_void;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use super::control::{Control, PORTION};
use crate::bare::{self, Errno, Start};
use crate::own_maps::{OwnMap, OwnMaps};
use crate::slices::{SMALLEST, Slices, slices};
use crate::units::{PAGE_BYTES, PageIdx, PageRange, Pages};

/// Mappings below this size (1 MiB) are not worth a system call of their own.
const WORTH_IT: Pages = Pages(1 << 8);

/// `CLONE_VM`, `FS`, `FILES`, `SIGHAND`, `THREAD`, `SYSVSEM`, `SETTLS`, `PARENT_SETTID`,
/// `CHILD_CLEARTID`: a thread, as pthread_create(3) makes it.
const THREAD: usize = 0x003d_0f00;

/// Frees nearly everything.
///
/// # Safety
/// No task but this one uses the address space, and this one runs on the stack and by the orders
/// that `control` describes.
pub(super) unsafe fn free_all(control: &Control) {
    let mut buffer = [0_u8; PAGE_BYTES];
    let Ok(maps) = OwnMaps::open(&mut buffer) else { return };
    let area = &control.orders.area;
    let own = PageRange { start: page(area.start), end: page(area.end) };
    let mut victims = Victims::new(maps, own);
    while fill(control, &mut victims) {
        // SAFETY: the caller answers for it that nobody needs this memory, and `Victims` leaves out
        // what this task needs itself.
        unsafe { free_portion(control) };
    }
}

/// Whether the mappings can be read at all.
pub(super) fn try_maps() -> Result<(), Errno> {
    OwnMaps::open(&mut []).map(drop)
}

fn page(address: usize) -> PageIdx {
    PageIdx::containing(address as u64)
}

/// The slices to discard, from a look at the mappings.
struct Victims<'b> {
    maps: OwnMaps<'b>,
    own: PageRange,
    /// Where the last mapping of a file for writing ended: behind it, memory without a name is the
    /// rest of a program's or library's data.
    data_end: PageIdx,
    /// What is left of the present mapping: before and behind the companion's own memory.
    parts: [Slices; 2],
}

impl<'b> Victims<'b> {
    fn new(maps: OwnMaps<'b>, own: PageRange) -> Self {
        let nothing = || slices(PageRange::default(), SMALLEST);
        Self { maps, own, data_end: PageIdx(0), parts: [nothing(), nothing()] }
    }

    fn is_victim(&mut self, map: &OwnMap) -> bool {
        let is_data = map.range.start == self.data_end;
        if map.inode != 0 && map.writable {
            self.data_end = map.range.end;
        }
        map.is_private_anonymous() && map.writable && !map.executable && !is_data
    }
}

impl Iterator for Victims<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        loop {
            let [before, behind] = &mut self.parts;
            if let Some(slice) = before.next().or_else(|| behind.next()) {
                if slice.length() >= WORTH_IT {
                    return Some(slice);
                }
                continue;
            }
            let map = self.maps.next()?;
            if self.is_victim(&map) {
                let PageRange { start, end } = map.range;
                let before = PageRange { start, end: end.min(self.own.start) };
                let behind = PageRange { start: start.max(self.own.end), end };
                self.parts = [before, behind].map(|part| slices(part, SMALLEST));
            }
        }
    }
}

/// Fills the portion with the next slices; false when there is none left.
fn fill(control: &Control, victims: &mut Victims<'_>) -> bool {
    let portion = &control.portion;
    let mut filled = 0_usize;
    for (start, length) in portion.starts.iter().zip(&portion.lengths) {
        let Some(slice) = victims.next() else { break };
        start.store(usize::try_from(slice.start.address()).unwrap_or(0), Relaxed);
        length.store(usize::try_from(slice.length().bytes().0).unwrap_or(0), Relaxed);
        filled = filled.wrapping_add(1);
    }
    portion.filled.store(filled.min(PORTION), Relaxed);
    portion.next.store(0, Relaxed);
    filled > 0
}

/// Discards the portion's slices together with as many workers as are allowed and of use.
///
/// # Safety
/// Nobody needs the memory of these slices.
unsafe fn free_portion(control: &Control) {
    let portion = &control.portion;
    let useful = portion.filled.load(Relaxed).saturating_sub(1);
    let places = control.orders.places.iter().flatten();
    for (place, tid) in places.zip(&portion.workers).take(useful) {
        let start = Start {
            flags: THREAD,
            stack_end: place.stack_end,
            tls: place.tls,
            tid,
            entry: work,
            argument: std::ptr::from_ref(control).cast(),
        };
        // SAFETY: the place is this worker's own; the one before it there was waited for.
        if unsafe { bare::clone(&start) }.is_err() {
            break;
        }
    }
    // SAFETY: as the caller says.
    unsafe { discard_slices(control) };
    for tid in &portion.workers {
        loop {
            // The kernel clears it when the worker no longer uses its stack (Acquire: with all that
            // it did).
            match tid.load(Acquire) {
                0 => break,
                running => bare::wait_while(tid, running, Duration::from_secs(1)),
            }
        }
    }
}

/// A worker.
///
/// # Safety
/// `argument` is the control block, and nobody needs the memory of its slices.
unsafe extern "C" fn work(argument: *const c_void) -> ! {
    // SAFETY: the caller hands over the control block, which outlives all workers.
    let control = unsafe { &*argument.cast::<Control>() };
    // SAFETY: as the caller says.
    unsafe { discard_slices(control) };
    bare::exit_task()
}

/// Takes slices and discards them until none is left.
///
/// # Safety
/// Nobody needs their memory.
unsafe fn discard_slices(control: &Control) {
    let portion = &control.portion;
    let filled = portion.filled.load(Relaxed);
    loop {
        let next = portion.next.fetch_add(1, Relaxed);
        let (Some(start), Some(length)) = (portion.starts.get(next), portion.lengths.get(next))
        else {
            return;
        };
        if next >= filled {
            return;
        }
        // SAFETY: as the caller says. What is refused is freed when the last task ends.
        let _ = unsafe { bare::discard(start.load(Relaxed), length.load(Relaxed)) };
    }
}
