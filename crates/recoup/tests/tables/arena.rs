//! Memory of the tests' own that many threads use at a time, each its own pages of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoup::discard::{HugePages, TableReclaim, table_reclaim};
use recoup::tables::{Settled, Sweeper};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Features, PageRange, Pages};
use recoup_testkit::kernel;

pub(crate) const PAGE: usize = 4096;
pub(crate) const BLOCK_BYTES: usize = 2 << 20;

/// Page tables are counted for the whole process, so these tests go one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn features() -> Features {
    Features::probe().unwrap()
}

/// What sweeps need.
pub(crate) const FENCES: &str = "PAGEMAP_SCAN (Linux 6.7) and a userfaultfd for kernel faults";
/// What sweeps need of memory that cannot be mapped anew.
pub(crate) const DISCARDS: &str =
    "CONFIG_PT_RECLAIM (Linux 6.14) and a userfaultfd for kernel faults";

/// How this kernel frees tables.
pub(crate) fn by() -> TableReclaim {
    table_reclaim(&features())
}

/// Whether the fence works here, and tables go by discards.
pub(crate) fn discards(features: &Features) -> bool {
    fences(features) && table_reclaim(features) == TableReclaim::Discard
}

/// Whether the fence works here.
pub(crate) fn fences(features: &Features) -> bool {
    Sweeper::new(settled(PageRange::default()), Duration::ZERO, features).is_ok()
}

/// Whether a thread of this process may have real-time priority, as a keeper asks for.
pub(crate) fn real_time() -> bool {
    let asks = || {
        let lowest = libc::sched_param { sched_priority: 1 };
        // SAFETY: reads the parameter; changes the calling thread, which ends.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) == 0 }
    };
    std::thread::spawn(asks).join().unwrap()
}

/// Sets a flag when dropped, so that threads which wait for it also end when a test fails.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes of page tables.
pub(crate) fn tables() -> u64 {
    kernel::status_bytes(kernel::own_pid(), "VmPTE")
}

/// The tables once the kernel is done with freeing, or what is left after a second.
pub(crate) fn tables_below(limit: u64) -> u64 {
    for _ in 0..100 {
        if tables() <= limit {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    tables()
}

/// Base pages only, so that each block gets a table.
pub(crate) fn region(blocks: u64) -> Region {
    let length = Bytes(blocks * BLOCK.0);
    let mut region = Region::new(length).unwrap();
    region.advise(Pages(0), length.whole_pages(), OwnAdvice::BasePages).ok();
    region
}

/// The tests never replace a mapping of these pages while they are swept.
pub(crate) fn settled(pages: PageRange) -> Settled {
    // SAFETY: the pages are those of a `region` that outlives its sweeps, and nothing is mapped over it.
    // Tests that change anything else about it only do so for a moment, or where tables go by discards.
    unsafe { Settled::plain(pages, HugePages::Unwanted) }
}

/// This kernel, and this kernel as if it freed tables only where memory is mapped anew.
pub(crate) fn both_ways() -> [Features; 2] {
    [features(), kernel::with_table_reclaim_hidden(&features())]
}

/// A part of an arena: one thread's own.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    start: usize,
    pub(crate) pages: usize,
}

impl Part {
    /// The `index`th of `count` equal parts.
    pub(crate) fn of(region: &Region, index: usize, count: usize) -> Self {
        let pages = usize::try_from(region.pages().length().0).unwrap() / count;
        let start = usize::try_from(region.pages().start.address()).unwrap();
        Self { start: start + index * pages * PAGE, pages }
    }

    pub(crate) fn address(self, page: usize) -> *mut u64 {
        assert!(page < self.pages);
        std::ptr::with_exposed_provenance_mut(self.start + page * PAGE)
    }

    pub(crate) fn write(self, page: usize, value: u64) {
        // SAFETY: the page is mapped as long as the region, and this thread's own.
        unsafe { self.address(page).write_volatile(value) }
    }

    pub(crate) fn read(self, page: usize) -> u64 {
        // SAFETY: as for `write`.
        unsafe { self.address(page).read_volatile() }
    }

    pub(crate) fn discard(self, page: usize) {
        // SAFETY: as for `write`; the caller has done with what is there.
        let result = unsafe { libc::madvise(self.address(page).cast(), PAGE, libc::MADV_DONTNEED) };
        assert_eq!(result, 0);
    }

    /// Reads from a file into the page: a system call that faults on the program's behalf.
    pub(crate) fn fill_from(self, page: usize, file: &std::fs::File) -> std::io::Result<()> {
        // SAFETY: as for `write`; the slice is gone after the call.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.address(page).cast::<u8>(), 8) };
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0)
    }

    pub(crate) fn protect(self, page: usize, protection: i32) {
        let start = page / 512 * 512;
        // SAFETY: the block is this thread's own, and it does not touch it meanwhile.
        let result = unsafe { libc::mprotect(self.address(start).cast(), BLOCK_BYTES, protection) };
        assert_eq!(result, 0);
    }

    /// Forks a child that looks at one page; whether it saw `value` there.
    pub(crate) fn child_sees(self, page: usize, value: u64) -> bool {
        // SAFETY: the child only reads memory and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(self.read(page) != value);
            // SAFETY: ends the child without anything of the parent's.
            unsafe { libc::_exit(status) }
        }
        let mut status = -1;
        // SAFETY: the status is a place of this function's.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        waited == child && status == 0
    }
}
