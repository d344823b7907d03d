//! The companion's own memory: stacks, what stands for thread-local storage, and the control block,
//! all mapped before it starts.
//!
//! No forked child has it (`MADV_DONTFORK`), no core dump shows it (`MADV_DONTDUMP`).
//!
//! ```text
//! | guard | companion's stack | its TLS | control | guard | worker's stack | its TLS | guard | ...
//! ```

#![expect(unsafe_code, reason = "memory is mapped and laid out here")]

use std::ops::Range;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::control::Control;
use crate::error::{Error, Result};
use crate::units::PAGE_BYTES;

/// The companion's stack: touched as far as it is used.
const STACK: usize = 256 << 10;
/// A worker's stack.
const WORKER_STACK: usize = 16 << 10;
/// In place of thread-local storage: a page below the thread pointer and one above it. Nothing here
/// uses it; it is there so that a stray libc function finds zeroes instead of the program's state.
const TLS: usize = 2 * PAGE_BYTES;
const CONTROL: usize = size_of::<Control>().next_multiple_of(PAGE_BYTES);
const WORKER: usize = PAGE_BYTES + WORKER_STACK + TLS;
const FIRST_WORKER: usize = PAGE_BYTES + STACK + TLS + CONTROL;

const _: () = assert!(align_of::<Control>() <= PAGE_BYTES);

/// The mapping. Dropping it unmaps it: nobody may live in it any more.
#[derive(Debug)]
pub(super) struct Area {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: an area is plain memory; what is in it is written before the companion starts, and
// afterwards changed by atomic operations only.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

/// Where a task runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) stack_end: *mut u8,
    pub(super) tls: *mut u8,
}

impl Area {
    /// Maps the room for a companion and so many workers.
    pub(super) fn new(workers: usize) -> Result<Self> {
        let length = FIRST_WORKER + workers * WORKER;
        let fail = |e| Error::os("map", "the companion's memory", e);
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(fail)?;
        let base = NonNull::new(base.cast())
            .ok_or_else(|| Error::malformed("mmap", "a mapping at address zero"))?;
        let area = Self { base, length };
        area.prepare(workers).map_err(fail)?;
        Ok(area)
    }

    fn prepare(&self, workers: usize) -> rustix::io::Result<()> {
        for advice in [Advice::LinuxDontFork, Advice::LinuxDontDump] {
            // SAFETY: advice about exactly the mapping that was just made; no byte changes.
            unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.length, advice) }?;
        }
        for guard in [0].into_iter().chain((0..workers).map(|n| FIRST_WORKER + n * WORKER)) {
            let page = self.at(guard).cast();
            // SAFETY: a page of the mapping that was just made; nobody uses it.
            unsafe { rustix::mm::mprotect(page, PAGE_BYTES, MprotectFlags::empty()) }?;
        }
        for place in std::iter::once(self.companion()).chain((0..workers).map(|n| self.worker(n))) {
            place.prepare_tls();
        }
        Ok(())
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(offset)
    }

    /// Where the companion runs.
    pub(super) fn companion(&self) -> Place {
        Place::new(self.at(PAGE_BYTES + STACK))
    }

    /// Where a worker runs.
    pub(super) fn worker(&self, number: usize) -> Place {
        Place::new(self.at(FIRST_WORKER + number * WORKER + PAGE_BYTES + WORKER_STACK))
    }

    /// Where the control block is: zeroes, which is a valid value of it.
    pub(super) fn control(&self) -> NonNull<Control> {
        // SAFETY: within the mapping, so not null.
        unsafe { self.base.add(FIRST_WORKER - CONTROL) }.cast()
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr().expose_provenance();
        start..start + self.length
    }
}

impl Place {
    fn new(stack_end: *mut u8) -> Self {
        Self { stack_end, tls: stack_end.wrapping_add(PAGE_BYTES) }
    }

    /// The psABI wants the thread pointer's own address where it points to; glibc keeps it again
    /// two words further on.
    fn prepare_tls(self) {
        let word = self.tls.cast::<usize>();
        for place in [word, word.wrapping_add(2)] {
            // SAFETY: two words of a page of the area that nobody else knows yet.
            unsafe { place.write(self.tls.expose_provenance()) }
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made. Its user made sure that nobody runs in it.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(result.is_ok(), "munmap of the companion's memory: {result:?}");
    }
}
