//! A program whose large blocks are a pool's, the others glibc's.

#![expect(unsafe_code, reason = "the tests fork, and allocate as a program's runtime does")]

mod stress;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoup::pool::source::{Gigabyte, Kind, Source};
use recoup::pool::{Chunks, Large, LargeOptions, OwnerOptions, Pool, ReturnSettings, Thp};
use recoup_sys::Bytes;
use recoup_testkit::kernel::{own_pid, smaps_bytes_in};

#[global_allocator]
static ALLOCATOR: Large<System> = Large::new(System);

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

/// What is held is the whole process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn held() -> Bytes {
    ALLOCATOR.usage().expect("a pool").held
}

fn resident_around(start: *const u8) -> u64 {
    let start = start.addr() as u64 / GIB * GIB;
    smaps_bytes_in(own_pid(), start..start + GIB, "Rss")
}

#[test]
fn large_blocks_are_the_pool_s_and_go_back() {
    let _alone = alone();
    let small = vec![1_u8; MIB - 1];
    let before = held();
    let large: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number; 3 * MIB]).collect();
    assert_eq!(held().0 - before.0, 8 * (4 << 20));
    let place = large[0].as_ptr();
    assert!(resident_around(place) >= 8 * (3 << 20));
    assert!((0..8_u8).zip(&large).all(|(number, block)| block.iter().all(|&it| it == number)));
    drop(large);
    assert_eq!(held(), before);
    let returned = ALLOCATOR.trim();
    assert!(returned.bytes.0 >= 8 * (3 << 20), "{returned:?}");
    assert_eq!(resident_around(place), 0);
    drop(small);
}

#[test]
fn many_threads_and_a_return_in_the_background() {
    let _alone = alone();
    let before = held();
    let settings = ReturnSettings {
        threshold: 2,
        deadline: Duration::from_millis(1),
        ..ReturnSettings::default()
    };
    let background = ALLOCATOR.return_in_background(settings).expect("a thread");
    stress::run(6, 3000);
    let returned = background.stop();
    assert!(returned.bytes > Bytes(0) && returned.failed == 0, "{returned:?}");
    assert_eq!(held(), before);
    // What was only read goes, which older kernels don't tell from what is somebody else's.
    ALLOCATOR.trim();
    assert_eq!(ALLOCATOR.audit().expect("a pool").expect("pagemap").violations, []);
}

/// A source of another pool that frees a large block when memory comes back to it.
#[derive(Debug)]
struct WithBlock {
    block: Mutex<Option<Vec<u8>>>,
    freed: Sender<()>,
}

// SAFETY: private memory is nobody else's.
unsafe impl Source for WithBlock {
    fn kind(&self) -> Kind {
        Thp::private().kind()
    }

    fn take(&self) -> recoup_sys::Result<Gigabyte> {
        Ok(Gigabyte::Private)
    }

    fn put_back(&self, _: Gigabyte) {
        drop(self.block.lock().expect("one at a time").take());
        self.freed.send(()).expect("the test");
    }
}

#[test]
fn another_pool_s_thread_frees_blocks_like_any_other() {
    let _alone = alone();
    let before = held();
    let (freed, hears) = mpsc::channel();
    let block = Mutex::new(Some(vec![1; 3 * MIB]));
    let pool = Pool::new(WithBlock { block, freed }, Bytes(GIB));
    let tenant = pool.owner(OwnerOptions::default()).expect("an owner");
    assert_eq!(held().0 - before.0, 4 << 20);
    let settings = ReturnSettings { threshold: 1, ..ReturnSettings::default() };
    let background = pool.return_in_background(settings).expect("a thread");
    tenant.chunks(Chunks(2)).expect("room").fill(1);
    hears.recv().expect("the gigabyte goes back");
    assert_eq!(held(), before);
    drop(background);
}

#[test]
fn zeroed_memory_is_not_touched() {
    let _alone = alone();
    ALLOCATOR.trim();
    let block = vec![0_u8; 512 * MIB];
    assert_eq!(resident_around(block.as_ptr()), 0);
    assert!(block.iter().step_by(4096).all(|&byte| byte == 0));
}

/// A block that outlives its thread's other values, and one made while they go.
struct Last(Vec<u8>);

impl Drop for Last {
    fn drop(&mut self) {
        let again = vec![self.0[0]; 5 * MIB];
        assert!(again.iter().all(|&byte| byte == 7));
    }
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

#[test]
fn threads_free_and_allocate_while_they_end() {
    let _alone = alone();
    let before = held();
    for _ in 0..10 {
        let threads = (0..4).map(|_| std::thread::spawn(|| LAST.set(Some(Last(vec![7; 2 * MIB])))));
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
    assert_eq!(held(), before);
}

/// How a child ends that does this, within a minute.
fn in_child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child allocates, which it may, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a child that waits for a lock for ever ends by it.
        unsafe { libc::alarm(60) };
        let status = i32::from(!work());
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: the child of this call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

#[test]
fn a_forked_child_has_all_blocks_and_gets_more() {
    let _alone = alone();
    ALLOCATOR.trim();
    let mut blocks: Vec<Vec<u8>> = (1..6_u8).map(|number| vec![number; 3 * MIB]).collect();
    let status = in_child(|| {
        let intact = (1..6_u8).zip(&blocks).all(|(it, block)| block.iter().all(|&byte| byte == it));
        let mut last = blocks.pop().expect("five");
        let place = last.as_ptr();
        last.resize(9 * MIB, 5);
        let moved = last.iter().all(|&byte| byte == 5) && last.as_ptr() != place;
        blocks.clear();
        // What it freed of its copies is no longer mapped, and the parent's are.
        let freed = resident_around(place) == 0;
        let more = vec![8_u8; 64 * MIB];
        let no_pool = ALLOCATOR.usage().is_none()
            && ALLOCATOR.return_in_background(ReturnSettings::default()).is_err();
        intact && moved && freed && no_pool && more.iter().all(|&byte| byte == 8)
    });
    assert_eq!(status, 0);
    assert!((1..6_u8).zip(&blocks).all(|(it, block)| block.iter().all(|&byte| byte == it)));
    // Every page is this process's alone again.
    assert_eq!(ALLOCATOR.audit().expect("a pool").expect("pagemap").violations, []);
}

#[test]
fn a_child_does_not_wait_for_threads_that_it_does_not_have() {
    let _alone = alone();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    // Untouched, so that most of the time somebody holds the pool's locks.
                    drop(std::hint::black_box(Vec::<u8>::with_capacity(9 * MIB)));
                }
            });
        }
        let child = || {
            let inherited = vec![3_u8; 2 * MIB];
            in_child(|| {
                let new = vec![inherited[MIB]; 4 * MIB];
                drop(inherited);
                new.iter().all(|&byte| byte == 3)
            })
        };
        let failed = (0..100).map(|_| child()).find(|&status| status != 0);
        ended.store(true, Ordering::Relaxed);
        assert_eq!(failed, None);
    });
}

#[test]
fn programs_start_by_fork_and_exec() {
    let _alone = alone();
    let block = vec![1_u8; 4 * MIB];
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("--list").stdout(std::process::Stdio::null());
    let check = move || {
        let copy = block.clone();
        (copy[MIB] == 1).then_some(()).ok_or_else(|| std::io::Error::other("other bytes"))
    };
    // SAFETY: between fork and exec it only allocates, as glibc allows too.
    unsafe { command.pre_exec(check) };
    assert!(command.status().expect("a child").success());
}

/// A block as a program's runtime has it.
struct Raw<'a> {
    allocator: &'a Large<System>,
    start: *mut u8,
    layout: Layout,
}

fn layout(size: usize, alignment: usize) -> Layout {
    Layout::from_size_align(size, alignment).expect("a layout")
}

impl<'a> Raw<'a> {
    fn zeroed(allocator: &'a Large<System>, layout: Layout) -> Self {
        // SAFETY: freed by `drop` only.
        let start = unsafe { allocator.alloc_zeroed(layout) };
        let error = std::io::Error::last_os_error();
        assert!(!start.is_null(), "{layout:?} beside {:?}: {error}", allocator.usage());
        assert!(start.addr().is_multiple_of(layout.align()));
        Self { allocator, start, layout }
    }

    fn resize(&mut self, size: usize) {
        // SAFETY: this value's own, with this layout.
        self.start = unsafe { self.allocator.realloc(self.start, self.layout, size) };
        assert!(!self.start.is_null());
        self.layout = layout(size, self.layout.align());
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: this value's own, zeroed or written when it got this length.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // SAFETY: this value's own, with this layout.
        unsafe { self.allocator.dealloc(self.start, self.layout) };
    }
}

#[test]
fn what_the_pool_refuses_comes_from_the_other() {
    let allocator = Large::with(System, LargeOptions::new().threshold(4096).limit(Bytes(GIB)));
    let held = || allocator.usage().expect("a pool").held;
    let size = 200 * MIB;
    let marks = [0, size / 2, size - 1];
    let mut blocks: Vec<_> = (0..6).map(|_| Raw::zeroed(&allocator, layout(size, 8))).collect();
    assert_eq!(held(), Bytes(800 << 20), "four fit");
    for (number, block) in (1_u8..).zip(&mut blocks) {
        marks.iter().for_each(|&at| block.bytes()[at] = number);
        // The other's grow where they are, the pool's move there.
        block.resize(300 * MIB);
    }
    for (number, block) in (1_u8..).zip(&mut blocks) {
        assert!(marks.iter().all(|&at| block.bytes()[at] == number));
        // Below the threshold nothing is the pool's.
        block.resize(100);
        assert_eq!(block.bytes()[0], number);
    }
    assert_eq!(held(), Bytes(0));
    for (number, block) in (1_u8..).zip(&mut blocks) {
        // And back.
        block.resize(5000);
        assert_eq!(block.bytes()[0], number);
    }
    assert_eq!(held(), Bytes(2 << 20));
    drop(blocks);
    // The kernel sets no such addresses apart on a machine that has less memory.
    if recoup_testkit::kernel::meminfo_bytes("MemTotal") > 4 * GIB {
        let mut huge = Raw::zeroed(&allocator, layout(MIB, 2 << 30));
        assert!(huge.bytes().iter().all(|&byte| byte == 0));
        assert_eq!(held(), Bytes(0), "no pool has such an alignment");
    }
    allocator.trim();
    assert_eq!(allocator.audit().expect("a pool").expect("pagemap").violations, []);
}
