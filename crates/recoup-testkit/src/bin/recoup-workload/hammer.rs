//! Threads that use memory in every way at once, and know what must be in it.
//!
//! Writers own a region of huge pages each: they write, check, discard and lazily free pages at
//! random. One more thread moves, shrinks and unmaps regions; one forks children that write to
//! their copies; one switches huge pages on and off for its region. Whatever recoup does meanwhile,
//! no value may be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use recoup_sys::Pages;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::PAGE_BYTES;
use recoup_testkit::numbers::Numbers;

/// Pages of each writer's region.
const REGION: u64 = 4 * 512;

/// Threads at work.
pub(crate) struct Hammer {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    operations: AtomicU64,
    wrong: AtomicU64,
}

impl Counts {
    fn go_on(&self) -> bool {
        self.operations.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    fn expect(&self, right: bool) {
        self.wrong.fetch_add(u64::from(!right), Ordering::Relaxed);
    }
}

impl Hammer {
    pub(crate) fn start(writers: u64) -> Self {
        let counts = Arc::new(Counts::default());
        let thread = |work: Box<dyn FnOnce(&Counts) + Send>| {
            let counts = Arc::clone(&counts);
            spawn(move || work(&counts))
        };
        let mut threads: Vec<_> =
            (0..writers).map(|seed| thread(Box::new(move |c| write(c, seed)))).collect();
        threads.push(thread(Box::new(move_about)));
        threads.push(thread(Box::new(fork_children)));
        threads.push(thread(Box::new(switch_huge_pages)));
        Self { counts, threads }
    }

    pub(crate) fn stop(self) -> String {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                return "a thread panicked".to_owned();
            }
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} operations, {} wrong",
            count(&self.counts.operations),
            count(&self.counts.wrong)
        )
    }
}

/// What a page must hold.
#[derive(Clone, Copy)]
enum Expected {
    Stamp(u64),
    /// Freed lazily: the stamp or zero, for each byte range alike.
    StampOrZero(u64),
}

impl Expected {
    fn fits(self, found: u64) -> bool {
        match self {
            Self::Stamp(stamp) => found == stamp,
            Self::StampOrZero(stamp) => found == stamp || found == 0,
        }
    }
}

fn offset(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX) * PAGE_BYTES
}

fn stamp(region: &mut Region, page: u64, stamp: u64) {
    for within in [0, PAGE_BYTES / 2, PAGE_BYTES - 8] {
        region.write(offset(page) + within, &stamp.to_le_bytes());
    }
}

fn is_stamped(region: &Region, page: u64, expected: Expected) -> bool {
    [0, PAGE_BYTES / 2, PAGE_BYTES - 8].into_iter().all(|within| {
        let mut found = [0; 8];
        region.read(offset(page) + within, &mut found);
        expected.fits(u64::from_le_bytes(found))
    })
}

fn huge_region(pages: u64) -> Region {
    let mut region = Region::new(Pages(pages).bytes()).expect("memory");
    // A kernel without huge pages refuses; the hammer is then about base pages.
    let _ = region.advise(Pages(0), Pages(pages), OwnAdvice::HugePages);
    region
}

fn write(counts: &Counts, seed: u64) {
    let mut random = Numbers::new(seed + 0x1234_5678);
    let mut region = huge_region(REGION);
    let mut expected = vec![Expected::Stamp(0); offset(REGION) / PAGE_BYTES];
    while counts.go_on() {
        let page = random.below(REGION);
        let index = offset(page) / PAGE_BYTES;
        counts.expect(is_stamped(&region, page, expected[index]));
        match random.below(8) {
            0 => {
                let count = 1 + random.below(300).min(REGION - page - 1);
                let span = index..index + offset(count) / PAGE_BYTES;
                if region.advise(Pages(page), Pages(count), OwnAdvice::Discard).is_ok() {
                    expected[span].fill(Expected::Stamp(0));
                }
            }
            1 => {
                let count = 1 + random.below(40).min(REGION - page - 1);
                if region.advise(Pages(page), Pages(count), OwnAdvice::FreeLazily).is_ok() {
                    for value in &mut expected[index..index + offset(count) / PAGE_BYTES] {
                        let (Expected::Stamp(s) | Expected::StampOrZero(s)) = *value;
                        *value = Expected::StampOrZero(s);
                    }
                }
            }
            2 => (0..REGION).for_each(|page| {
                let value = random.below(u64::MAX);
                stamp(&mut region, page, value);
                expected[offset(page) / PAGE_BYTES] = Expected::Stamp(value);
            }),
            _ => {
                let value = random.below(u64::MAX);
                stamp(&mut region, page, value);
                expected[index] = Expected::Stamp(value);
            }
        }
    }
}

/// Moves a huge page's memory to another address, part by part, and unmaps it.
fn move_about(counts: &Counts) {
    let mut random = Numbers::new(99);
    while counts.go_on() {
        let mut region = huge_region(2 * 512);
        (0..1024).for_each(|page| stamp(&mut region, page, page + 1));
        let part = 1 + random.below(1000);
        counts.expect(moved_part_is_right(&region, part));
        counts.expect((part..1024).all(|p| is_stamped(&region, p, Expected::Stamp(p + 1))));
    }
}

/// Moves the first `part` pages elsewhere and looks at them there. What they leave behind stays
/// mapped, empty, so that the region can be dropped as a whole.
fn moved_part_is_right(region: &Region, part: u64) -> bool {
    let target = huge_region(part + 512);
    let address = |region: &Region| -> *mut libc::c_void {
        std::ptr::with_exposed_provenance_mut(offset(region.pages().start.0))
    };
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let (length, from, to) = (offset(part), address(region), address(&target));
    // SAFETY: moves pages of one region of this thread over ones of another; both stay mapped, and
    // no reference to either exists.
    let moved = unsafe { libc::mremap(from, length, length, flags, to) };
    moved == to && (0..part).all(|page| is_stamped(&target, page, Expected::Stamp(page + 1)))
}

/// Children write to their copies and leave, which makes pages shared and single again.
fn fork_children(counts: &Counts) {
    let mut region = huge_region(512);
    (0..512).for_each(|page| stamp(&mut region, page, page + 1));
    while counts.go_on() {
        // SAFETY: the child calls nothing but plain memory access and _exit.
        match unsafe { libc::fork() } {
            0 => {
                for page in (0..512).step_by(7) {
                    region.write(offset(page), &[0xff]);
                }
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(0) }
            }
            -1 => {}
            // SAFETY: reaps the child just made; a null status pointer is allowed.
            child => _ = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) },
        }
        let right = (0..512).all(|page| is_stamped(&region, page, Expected::Stamp(page + 1)));
        counts.expect(right);
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn switch_huge_pages(counts: &Counts) {
    let mut region = huge_region(1024);
    let advice = [OwnAdvice::BasePages, OwnAdvice::HugePages];
    for round in 0_u64.. {
        if !counts.go_on() {
            break;
        }
        let _ = region.advise(Pages(0), Pages(1024), advice[usize::from(round % 2 == 0)]);
        let _ = region.advise(Pages(0), Pages(1024), OwnAdvice::Discard);
        (0..1024).for_each(|page| stamp(&mut region, page, page + round));
        let right = (0..1024).all(|page| is_stamped(&region, page, Expected::Stamp(page + round)));
        counts.expect(right);
    }
}
