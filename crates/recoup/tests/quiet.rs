//! A step allocates nothing: the one who takes it may share its address space with a program that died
//! holding malloc's lock.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use recoup::discard::HugePages;
use recoup::tables::{Limits, Regulator, Settled};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Features, Pages};
use recoup_testkit::require;

struct Counting;

thread_local! {
    /// Calls by this thread.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_allocate_nothing() {
    let features = Features::probe().unwrap();
    let needed = [&features.userfaultfd, &features.pagemap_scan];
    let works = needed.iter().all(|it| it.works());
    require!(works, "PAGEMAP_SCAN (Linux 6.7) and a userfaultfd for kernel faults");
    let blocks = 4096;
    let mut region = Region::new(Bytes(blocks * BLOCK.0)).unwrap();
    region.advise(Pages(0), Pages(blocks * 512), OwnAdvice::BasePages).ok();
    // SAFETY: the region outlives all steps, nothing is mapped over it, and it stays as it is.
    let settled = unsafe { Settled::plain(region.pages(), HugePages::Unwanted) };
    let (soft, hard) = (Bytes(2 << 20), Bytes(8 << 20));
    let limits = Limits { soft, hard, max_pause: Duration::from_millis(10) };
    let mut regulator = Regulator::new(settled, limits, &features).unwrap();
    let mut fences = 0;
    for round in 0..10 {
        for block in 0..blocks / 8 * (round + 1) / 2 {
            region.touch(Pages(block * 512), Pages(1));
            region.advise(Pages(block * 512), Pages(1), OwnAdvice::Discard).unwrap();
        }
        let before = CALLS.get();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(40) {
            fences += regulator.step().unwrap().outcome.pauses.count();
        }
        assert_eq!(CALLS.get(), before);
    }
    assert!(fences > 0, "nothing was done");
}
