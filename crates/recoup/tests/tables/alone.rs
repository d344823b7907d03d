//! What is left alone, and what happens to those who wait when the one who fences dies.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use recoup::tables::{Mode, Sweeper};
use recoup_sys::own_maps::OwnMaps;
use recoup_sys::userfault::{Against, Userfault};
use recoup_sys::{Bytes, PageIdx, PageRange, Pages};
use recoup_testkit::kernel::own_pid;
use recoup_testkit::require;

use crate::arena::{
    BLOCK_BYTES, DISCARDS, FENCES, PAGE, Part, alone, by, discards, features, fences, region,
    settled,
};

const BLOCKS: u64 = 64;

/// Sweeps the range in both modes.
fn sweep(pages: PageRange) -> u64 {
    let pause = Duration::from_millis(10);
    let mut sweeper = Sweeper::new(settled(pages), pause, &features()).unwrap();
    let modes = [Mode::Looking, Mode::Fencing];
    modes.map(|mode| sweeper.sweep(mode, Bytes::ZERO).unwrap().left_alone).iter().sum()
}

fn map(length: usize, flags: i32) -> (*mut u8, PageRange) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: no address is asked for.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED);
    let start = PageIdx::containing(address.expose_provenance() as u64);
    (address.cast(), PageRange::starting_at(start, Bytes(length as u64).whole_pages()))
}

fn unmap(address: *mut u8, length: usize) {
    // SAFETY: the mapping is the calling test's own, and it has done with it.
    assert_eq!(unsafe { libc::munmap(address.cast(), length) }, 0);
}

#[test]
fn shared_memory_is_never_fenced() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let length = 64 * BLOCK_BYTES;
    let (address, pages) = map(length, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    for block in 0..64 {
        let place = address.wrapping_add(block * BLOCK_BYTES);
        // SAFETY: within the mapping, which is this test's own.
        unsafe { place.write_volatile(7) };
    }
    assert_eq!(sweep(pages), 0);
    for block in 0..64 {
        let place = address.wrapping_add(block * BLOCK_BYTES);
        // SAFETY: as above.
        assert_eq!(unsafe { place.read_volatile() }, 7);
    }
    unmap(address, length);
}

#[test]
fn locked_memory_stays_locked_and_full() {
    let _turn = alone();
    require!(discards(&features()), DISCARDS);
    let region = region(BLOCKS);
    let part = Part::of(&region, 0, 1);
    // SAFETY: the range is the region's. Pages are locked as they come to be (Linux 4.4).
    let locked = unsafe { libc::mlock2(part.address(0).cast(), 8 * BLOCK_BYTES, 1) };
    require!(locked == 0, "RLIMIT_MEMLOCK of 16 MiB");
    (0..64).for_each(|block| part.write(block * 512, 5));
    (8..64).for_each(|block| part.discard(block * 512));
    let before = recoup_testkit::kernel::status_bytes(own_pid(), "VmLck");
    sweep(region.pages());
    assert_eq!(recoup_testkit::kernel::status_bytes(own_pid(), "VmLck"), before);
    (0..8).for_each(|block| assert_eq!(part.read(block * 512), 5));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::munlock(part.address(0).cast(), 8 * BLOCK_BYTES) }, 0);
}

#[test]
fn memory_that_another_userfaultfd_watches_is_left_to_it() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(BLOCKS);
    let part = Part::of(&region, 0, 1);
    (0..64).for_each(|block| part.write(block * 512, 5));
    (0..63).for_each(|block| part.discard(block * 512));
    let promised = settled(region.pages());
    let mut other = Userfault::open().unwrap();
    let theirs = other.fence(&promised, region.pages(), Against::Additions, by()).unwrap();
    let mut refused = Userfault::open().unwrap();
    let ours = refused.fence(&promised, region.pages(), Against::Additions, by());
    assert_eq!(ours.map(|_| ()), Err(recoup_sys::Errno::BUSY));
    assert!(sweep(region.pages()) >= 2);
    drop(theirs);
    assert_eq!((part.read(0), part.read(63 * 512)), (0, 5));
}

#[test]
fn guard_pages_stay_guards() {
    const MADV_GUARD_INSTALL: i32 = 102;
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(BLOCKS);
    let part = Part::of(&region, 0, 1);
    // SAFETY: the page is the region's, and nothing is in it.
    let guarded = unsafe { libc::madvise(part.address(513).cast(), PAGE, MADV_GUARD_INSTALL) };
    require!(guarded == 0, "guard pages (Linux 6.13)");
    (2..64).for_each(|block| part.write(block * 512, 5));
    (2..64).for_each(|block| part.discard(block * 512));
    sweep(region.pages());
    let mut byte = [0_u8; 8];
    let (target, wanted) = (part.address(513).expose_provenance(), byte.len());
    let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: wanted };
    let remote =
        libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(target), iov_len: wanted };
    // SAFETY: both vectors live as long as the call; the target is only read.
    let read =
        unsafe { libc::process_vm_readv(own_pid(), &raw const local, 1, &raw const remote, 1, 0) };
    assert_eq!(read, -1, "a guard page can be read");
}

#[test]
fn blocks_that_straddle_mappings_are_left_alone() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(4);
    let part = Part::of(&region, 0, 1);
    (0..4).for_each(|block| part.write(block * 512 + 511, 5));
    // Half of the second block becomes a mapping of its own.
    // SAFETY: the range is the region's, and nobody writes to it meanwhile.
    let done =
        unsafe { libc::mprotect(part.address(512).cast(), BLOCK_BYTES / 2, libc::PROT_READ) };
    assert_eq!(done, 0);
    let before = mappings(region.pages());
    sweep(region.pages());
    assert_eq!(mappings(region.pages()), before);
    (0..4).for_each(|block| assert_eq!(part.read(block * 512 + 511), 5));
}

fn mappings(pages: PageRange) -> usize {
    let mut buffer = [0; 4096];
    let maps = OwnMaps::open(&mut buffer).unwrap();
    maps.filter(|mapping| !mapping.range.intersection(pages).is_empty()).count()
}

/// What the helper and the test tell each other.
struct Fencing {
    pages: PageRange,
    up: AtomicU32,
}

/// A helper in this address space, but with descriptors of its own: raises a fence and stays.
extern "C" fn fence_and_stay(argument: *mut libc::c_void) -> i32 {
    // SAFETY: the test that made the helper keeps its `Fencing` until the helper has ended.
    let fencing = unsafe { &*argument.cast::<Fencing>() };
    let settled = settled(fencing.pages);
    let Ok(mut fault) = Userfault::open() else { return 1 };
    let Ok(_fence) = fault.fence(&settled, fencing.pages, Against::Additions, by()) else {
        return 2;
    };
    fencing.up.store(1, Ordering::Release);
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

/// Kills the helper and waits for its end, also when a test fails: nobody waits at its fence then.
struct Helper(i32);

impl Helper {
    fn kill(&self) {
        // SAFETY: the helper is this test's own, and not yet waited for.
        assert_eq!(unsafe { libc::kill(self.0, libc::SIGKILL) }, 0);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

#[test]
fn who_waits_goes_on_when_the_one_who_fences_is_killed() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let region = region(BLOCKS);
    let part = Part::of(&region, 0, 1);
    let fencing = Fencing { pages: region.pages(), up: AtomicU32::new(0) };
    let mut stack = vec![0_u64; 32 << 10];
    let top = stack.as_mut_ptr_range().end;
    let argument = (&raw const fencing).cast_mut().cast();
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is the helper's alone until it has ended, and so is the argument; it
    // touches nothing else of this program but code.
    let helper = unsafe { libc::clone(fence_and_stay, top.cast(), flags, argument) };
    assert!(helper > 0);
    let helper = Helper(helper);
    let began = Instant::now();
    while fencing.up.load(Ordering::Acquire) == 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "no fence");
        std::thread::sleep(Duration::from_millis(1));
    }
    let written = AtomicBool::new(false);
    let (held, went_on) = std::thread::scope(|scope| {
        scope.spawn(|| {
            part.write(512, 9);
            written.store(true, Ordering::Release);
        });
        std::thread::sleep(Duration::from_millis(100));
        let held = !written.load(Ordering::Acquire);
        helper.kill();
        let began = Instant::now();
        while !written.load(Ordering::Acquire) && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        (held, written.load(Ordering::Acquire))
    });
    assert!(held && went_on, "{held} {went_on}");
    drop(helper);
    assert_eq!(part.read(512), 9);
    assert_eq!(Pages(BLOCKS * 512), region.pages().length());
    drop(stack);
}
