//! The one who fences: its own memory, its forked child, and fences that cannot be lifted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recoup::discard::{TableReclaim, table_reclaim};
use recoup::tables::{Mode, Settled, Sweeper};
use recoup_sys::pagemap::Run;
use recoup_sys::userfault::{Against, Userfault};
use recoup_sys::{Bytes, Errno, PageRange, Pages};
use recoup_testkit::require;

use crate::arena::{
    BLOCK_BYTES, DISCARDS, FENCES, PAGE, Part, alone, both_ways, by, discards, features, fences,
    region, settled, tables, tables_below,
};

const PAUSE: Duration = Duration::from_millis(10);
/// Seconds after which a child that waits for itself is killed.
const LONGEST: u32 = 8;
/// How the frames of a sweep lie in their pages: eight ways.
const SHIFTS: std::ops::Range<u32> = 0..8;

/// Runs it in a forked child, which is killed if it takes long; whether it returned true.
pub(crate) fn child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child has a copy of this thread alone, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: takes a number; the signal ends the child.
        unsafe { libc::alarm(LONGEST) };
        let status = i32::from(!work());
        // SAFETY: ends the child without anything of the parent's.
        unsafe { libc::_exit(status) }
    }
    let mut status = -1;
    // SAFETY: the status is a place of this function's.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status == 0
}

#[test]
fn a_forked_child_sweeps_its_own_memory() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let both = [Mode::Looking, Mode::Fencing];
    for (features, mode) in
        both_ways().iter().flat_map(|features| both.map(|mode| (features, mode)))
    {
        let region = region(64);
        let part = Part::of(&region, 0, 1);
        (0..64).for_each(|block| part.write(block * 512, 1));
        (0..64).for_each(|block| part.discard(block * 512));
        let mut sweeper = Sweeper::new(settled(region.pages()), PAUSE, features).unwrap();
        sweeper.attach().unwrap();
        let kept = child(|| {
            (0..64).for_each(|block| part.write(block * 512, 7));
            (32..64).for_each(|block| part.discard(block * 512));
            let full = tables();
            let swept = sweeper.sweep(mode, Bytes::ZERO);
            let as_it_must = match table_reclaim(features) {
                TableReclaim::Discard => swept.is_ok() && tables() + 16 * 4096 <= full,
                // What it has inherited would fall to pieces.
                TableReclaim::Remap => swept.err() == Some(Errno::OPNOTSUPP),
            };
            as_it_must && (0..32).all(|block| part.read(block * 512) == 7)
        });
        assert!(kept, "{mode:?}");
        // The parent's still works.
        assert!(sweeper.sweep(mode, Bytes::ZERO).is_ok());
    }
}

#[test]
fn a_fence_is_of_no_use_to_a_forked_child() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(4);
    let settled = settled(region.pages());
    let mut fault = Userfault::open().unwrap();
    let mut runs = [Run::default(); 8];
    let mut fence = fault.fence(&settled, region.pages(), Against::Additions, by()).unwrap();
    let refused = child(|| fence.free_empty(region.pages(), &mut runs) == Err(Errno::BADF));
    assert!(refused);
    assert!(fence.free_empty(region.pages(), &mut runs).is_ok());
    drop(fence);
    let refused = child(|| {
        fault.fence(&settled, region.pages(), Against::Additions, by()).err() == Some(Errno::BADF)
    });
    assert!(refused);
}

/// Sweeps with nothing but this function's page left of the stack below: a fence that covers the stack makes
/// the sweep wait for itself as soon as it goes deeper than before. `shift` frames of half a kibibyte vary where
/// in a page that is.
#[inline(never)]
fn sweep_on_a_bare_stack(sweeper: &mut Sweeper, shift: u32) -> bool {
    let frame = [0_u8; 512];
    let here = std::hint::black_box(&raw const frame).expose_provenance();
    if shift > 0 {
        let swept = sweep_on_a_bare_stack(sweeper, shift - 1);
        return std::hint::black_box(frame)[0] == 0 && swept;
    }
    // First the page that a call from here may return to is left.
    let end = here / PAGE * PAGE - PAGE;
    let start = std::ptr::with_exposed_provenance_mut(end - 16 * PAGE);
    let modes = [Mode::Fencing, Mode::Looking, Mode::Fencing];
    modes.into_iter().all(|mode| {
        // SAFETY: the stack below this frame, which holds nothing now; calls from here have it anew.
        let gone = unsafe { libc::madvise(start, 16 * PAGE, libc::MADV_DONTNEED) };
        gone == 0 && sweeper.sweep(mode, Bytes::ZERO).is_ok()
    })
}

#[test]
fn who_sweeps_everything_does_not_wait_for_himself() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let features = features();
    let region = region(512);
    let part = Part::of(&region, 0, 1);
    let sweeps_here = |shift| {
        // So that the stack goes on in blocks which are its own altogether.
        let above = std::hint::black_box([0_u8; 3 * BLOCK_BYTES]);
        // Zero pages, so that writes are fenced too, and empty tables.
        (0..256).for_each(|block| assert_eq!(part.read(block * 512), 0));
        (256..512).for_each(|block| part.write(block * 512, 1));
        (256..512).for_each(|block| part.discard(block * 512));
        // SAFETY: this child has one thread that does anything, which maps nothing while it sweeps.
        let everywhere = unsafe { Settled::everywhere() };
        let Ok(mut sweeper) = Sweeper::new(everywhere, PAUSE, &features) else { return false };
        let swept = sweeper.attach().is_ok() && sweep_on_a_bare_stack(&mut sweeper, shift);
        std::hint::black_box(above)[0] == 0 && swept
    };
    for shift in SHIFTS {
        let ended = child(|| {
            std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(32 * BLOCK_BYTES);
                let thread = thread.spawn_scoped(scope, || sweeps_here(shift));
                thread.unwrap().join().unwrap()
            })
        });
        assert!(ended, "{shift}");
    }
}

/// What a helper is handed.
struct Task {
    sweeper: Sweeper,
    shift: u32,
}

/// A process of its own, with a stack of the test's.
extern "C" fn sweep_beside(task: *mut libc::c_void) -> i32 {
    // SAFETY: the test waits for this helper before it goes on with the task.
    let Task { sweeper, shift } = unsafe { &mut *task.cast::<Task>() };
    // SAFETY: takes a number; the signal ends the helper, if it waits for itself.
    unsafe { libc::alarm(LONGEST) };
    let swept = sweeper.attach().is_ok() && sweep_on_a_bare_stack(sweeper, *shift);
    i32::from(!swept)
}

/// The stack lies in the region, among empty tables and zero pages.
#[test]
fn a_stack_among_what_is_swept_is_left_out() {
    const STACK: usize = 16 * BLOCK_BYTES;
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    for shift in SHIFTS {
        let region = region(64);
        let part = Part::of(&region, 0, 1);
        (32..64).for_each(|block| assert_eq!(part.read(block * 512), 0));
        let sweeper = Sweeper::new(settled(region.pages()), PAUSE, &features()).unwrap();
        let mut task = Task { sweeper, shift };
        let ended = child(|| {
            let top = part.address(0).wrapping_byte_add(STACK);
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: the stack is the helper's alone; this thread waits until it has ended.
            let helper =
                unsafe { libc::clone(sweep_beside, top.cast(), flags, (&raw mut task).cast()) };
            let mut status = -1;
            // SAFETY: the status is a place of this function's.
            let waited = unsafe { libc::waitpid(helper, &raw mut status, 0) };
            waited == helper && status == 0
        });
        assert!(ended, "{shift}");
    }
}

#[test]
fn a_fence_that_cannot_be_lifted_is_closed() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(4);
    let part = Part::of(&region, 0, 1);
    let settled = settled(region.pages());
    let mut fault = Userfault::open().unwrap();
    let fence = fault.fence(&settled, region.pages(), Against::Additions, by()).unwrap();
    // A file in the middle, of which the kernel can let nothing go.
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let (descriptor, flags) =
        (std::os::fd::AsRawFd::as_raw_fd(&file), libc::MAP_PRIVATE | libc::MAP_FIXED);
    let place = part.address(1024).cast();
    // SAFETY: the place is the region's, which holds nothing there and is not looked at again.
    let mapped = unsafe { libc::mmap(place, BLOCK_BYTES, libc::PROT_READ, flags, descriptor, 0) };
    assert_eq!(mapped, place);
    drop(fence);
    // Some kernel between 6.18 and 7.2 learnt to let go around such a place; the others closed it.
    if !fault.is_usable() {
        let refused = fault.fence(&settled, region.pages(), Against::Additions, by()).err();
        assert_eq!(refused, Some(Errno::BADF));
    }
    let written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            part.write(0, 9);
            written.store(true, Ordering::Release);
        });
        let began = Instant::now();
        while !written.load(Ordering::Acquire) && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whoever still waits is let go by this, so that a failure can be told.
        drop(fault);
        assert!(began.elapsed() < Duration::from_secs(5), "still waiting");
    });
    assert_eq!(part.read(0), 9);
}

#[test]
fn what_is_not_settled_is_not_fenced() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let mut fault = Userfault::open().unwrap();
    let region = region(2);
    let first = PageRange::starting_at(region.pages().start, Pages(512));
    let settled = settled(first);
    let refused = fault.fence(&settled, region.pages(), Against::Additions, by()).err();
    assert_eq!(refused, Some(Errno::INVAL));
    assert!(fault.fence(&settled, first, Against::Additions, by()).is_ok());
    // SAFETY: nothing is mapped over the region.
    let stays = unsafe { Settled::new(first) };
    let refused = fault.fence(&stays, first, Against::Additions, TableReclaim::Remap).err();
    assert_eq!(refused, Some(Errno::INVAL));
}

#[test]
fn what_is_held_stays_and_the_rest_is_freed() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let both = [Against::Additions, Against::AdditionsAndWrites];
    let ways = both_ways().map(|features| table_reclaim(&features));
    for (against, by) in both.into_iter().flat_map(|against| ways.map(|by| (against, by))) {
        let region = region(128);
        let part = Part::of(&region, 0, 1);
        (0..128).for_each(|block| part.write(block * 512, 3));
        (0..120).for_each(|block| part.discard(block * 512));
        let (settled, full) = (settled(region.pages()), tables());
        let mut fault = Userfault::open().unwrap();
        let mut runs = [Run::default(); 16];
        let mut fence = fault.fence(&settled, region.pages(), against, by).unwrap();
        assert_eq!(fence.free_empty(region.pages(), &mut runs), Ok(region.pages().end));
        // What was mapped anew is no longer fenced, so nothing is looked at twice.
        assert_eq!(fence.free_empty(region.pages(), &mut runs), Err(Errno::INVAL));
        drop(fence);
        let left = tables_below(full - 100 * 4096);
        assert!(left <= full - 100 * 4096, "{left} of {full}");
        (0..128).for_each(|block| {
            assert_eq!(part.read(block * 512), if block < 120 { 0 } else { 3 }, "{block}");
        });
    }
}
