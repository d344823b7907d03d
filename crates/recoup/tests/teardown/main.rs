//! Freeing memory by several threads on the running kernel: what is freed, what is not, and what is
//! said about it.

mod held;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Duration;

use recoup::teardown::{Options, Workers, free_in_background, free_parallel, unmap_later};
use recoup_sys::mapped::OwnedMapping;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::PAGE_BYTES;
use recoup_sys::{Bytes, PageRange, Pages, Process};
use recoup_testkit::require;

use held::Held;

const MIB: u64 = 1 << 20;
/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);
const USERFAULTFD: &str = "userfaultfd(2) for user-mode faults (Linux 5.11)";

fn exactly(workers: usize) -> Workers {
    Workers::Exactly(NonZeroUsize::new(workers).expect("a number"))
}

/// A region whose pages all hold something.
fn full(mib: u64) -> Region {
    let mut region = Region::new(Bytes(mib * MIB)).expect("memory");
    let all = region.pages().length();
    region.advise(Pages(0), all, OwnAdvice::BasePages).expect("base pages");
    region.touch(Pages(0), all);
    region
}

/// Resident bytes, as this process's pagemap says: bit 63 of each page's word.
fn resident(pages: PageRange) -> u64 {
    let mut pagemap = File::open("/proc/self/pagemap").expect("the pagemap");
    pagemap.seek(SeekFrom::Start(pages.start.0 * 8)).expect("a place in it");
    let mut words = vec![0; usize::try_from(pages.length().0 * 8).expect("small")];
    pagemap.read_exact(&mut words).expect("a word for each page");
    let present = words.chunks_exact(8).filter(|word| word[7] & 0x80 != 0).count();
    (present * PAGE_BYTES) as u64
}

#[test]
fn all_ranges_are_freed_and_nothing_beside_them() {
    for workers in [exactly(1), exactly(3), Workers::default()] {
        let (mut one, mut other) = (full(200), full(70));
        let beside = full(4);
        let seen = Mutex::new(Vec::new());
        let progress = |done: Bytes| {
            seen.lock().expect("no panic").push(done.0);
            ControlFlow::Continue(())
        };
        let pages = [one.pages(), other.pages()];
        let options = Options { workers, progress: Some(&progress) };
        let freed = free_parallel(vec![one.contents(), other.contents()], &options);
        assert_eq!(freed.freed, Bytes(270 * MIB));
        assert!(freed.failures.is_empty() && freed.untouched.is_empty() && freed.workers > 0);
        assert_eq!(pages.map(resident), [0, 0]);
        assert_eq!(one.peek(77 * PAGE_BYTES), 0);
        assert_eq!(beside.peek(0), 1);
        let mut seen = seen.into_inner().expect("no panic");
        seen.sort_unstable();
        assert_eq!(seen.last(), Some(&(270 * MIB)));
        assert!(seen.len() >= 5, "once for each slice: {seen:?}");
    }
}

#[test]
fn what_was_not_begun_when_cancelled_is_untouched_and_handed_back() {
    let mut region = full(256);
    let first = region.pages().start;
    let cancel = |_| ControlFlow::Break(());
    let options = Options { workers: exactly(1), progress: Some(&cancel) };
    let freed = free_parallel(vec![region.contents()], &options);
    let untouched: Vec<PageRange> = freed.untouched.iter().map(|part| part.pages()).collect();
    let bytes: Bytes = untouched.iter().map(|pages| pages.length().bytes()).sum();
    assert_eq!(freed.freed + bytes, Bytes(256 * MIB));
    assert!(freed.freed > Bytes::ZERO && bytes > Bytes::ZERO);
    drop(freed);
    for pages in untouched {
        let place = usize::try_from((pages.start - first).bytes().0).expect("small");
        assert_eq!(region.peek(place), 1);
        assert_eq!(resident(pages), pages.length().bytes().0);
    }
}

#[test]
fn a_slice_that_is_refused_is_said_and_the_others_are_freed() {
    let (mut locked, mut other) = (full(8), full(64));
    locked.lock(Pages(0), Pages(1)).expect("one page may be locked");
    let pages = locked.pages();
    let ranges = vec![locked.contents(), other.contents()];
    let freed = free_parallel(ranges, &Options { workers: exactly(2), progress: None });
    assert_eq!(freed.freed, Bytes(64 * MIB));
    let failures: Vec<PageRange> = freed.failures.iter().map(|failure| failure.pages).collect();
    assert_eq!(failures, [pages]);
    assert_eq!(resident(other.pages()), 0);
}

#[test]
fn nothing_to_free_is_done_at_once() {
    let freed = free_parallel(Vec::new(), &Options::default());
    assert_eq!(freed.freed, Bytes::ZERO);
}

#[test]
fn in_the_background_the_caller_goes_on() {
    let region: &'static mut Region = Box::leak(Box::new(full(300)));
    let pages = region.pages();
    let job = free_in_background(vec![region.contents()], Workers::default()).expect("a thread");
    let freed = job.wait();
    assert_eq!(freed.freed, Bytes(300 * MIB));
    assert_eq!(resident(pages), 0);
}

#[test]
fn a_background_job_can_be_cancelled() {
    let region: &'static mut Region = Box::leak(Box::new(full(300)));
    let held = Held::new(region.pages());
    require!(held.is_some(), USERFAULTFD);
    let job = free_in_background(vec![region.contents()], exactly(1)).expect("a thread");
    // It is at its first slice.
    assert!(held.as_ref().is_some_and(|held| held.is_awaited(PATIENCE)));
    job.cancel();
    drop(held);
    let freed = job.wait();
    let untouched: Bytes = freed.untouched.iter().map(|part| part.pages().length().bytes()).sum();
    assert!(untouched >= Bytes(300 * MIB - (64 << 20)), "{untouched:?}");
    assert_eq!(freed.freed + untouched, Bytes(300 * MIB));
}

#[test]
fn a_mapping_is_unmapped_while_the_caller_goes_on() {
    let region = full(256);
    let pages = region.pages();
    let held = Held::new(pages);
    require!(held.is_some(), USERFAULTFD);
    let (tell, told) = std::sync::mpsc::channel();
    // Lets the memory go if the caller waits for it.
    let watch = std::thread::spawn(move || told.recv_timeout(PATIENCE).ok().and(held));
    let job = unmap_later(OwnedMapping::from(region)).expect("a thread");
    // Nobody listens any more if it came too late.
    let _ = tell.send(());
    let held = watch.join().expect("no panic").expect("unmap_later() waited for the memory");
    assert!(held.is_awaited(PATIENCE) && !job.is_finished());
    assert_eq!(resident(pages), 256 * MIB);
    drop(held);
    job.join().expect("no panic");
    assert_eq!(resident(pages), 0);
    let maps = Process::own().expect("this process").mappings().expect("its mappings");
    assert!(maps.iter().all(|map| map.range.intersection(pages) != pages), "still mapped");
}
