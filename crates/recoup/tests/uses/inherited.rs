//! What forked children have.

#![expect(unsafe_code, reason = "the test forks, and has a source of its own")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use recoup::pool::source::{Gigabyte, Kind, Source};
use recoup::pool::{Background, Error, Extent, Pool, ReturnSettings, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;

use super::{GIB, memfd, pool_of};

/// How a child ends that does this.
fn in_child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child touches its memory and ends, without a lock that another thread may have.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = i32::from(!work());
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: the child of this call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

fn first_byte(extent: &Extent) -> u8 {
    // SAFETY: mapped in this process, or the signal that the test is about.
    unsafe { extent.as_ptr().read_volatile() }
}

#[test]
fn a_child_has_copies_only_where_the_source_says_so() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let mut withheld = owner.chunk().expect("room");
    withheld.fill(7);
    let status = in_child(|| first_byte(&withheld) == 7);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);

    let (pool, owner) = pool_of(Thp::inherited(), Bytes(GIB));
    let mut extent = owner.chunk().expect("room");
    extent.fill(7);
    let status = in_child(|| {
        let mut more = owner.chunks(Chunks(3)).expect("room");
        more.fill(8);
        let kept = first_byte(&extent) == 7;
        // SAFETY: this process's copy.
        unsafe { extent.as_ptr().write_volatile(9) };
        drop(more);
        pool.trim();
        kept && owner.zeroed_chunks(Chunks(3)).is_ok_and(|all| all.iter().all(|&it| it == 0))
    });
    assert_eq!(status, 0);
    assert!(extent.iter().all(|&byte| byte == 7), "the parent's own");
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

/// Waits until the thread that returns memory sleeps (futex(2)), without a lock.
fn until_it_sleeps() {
    let is_it = |task: &Path| {
        let read = |name| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        let sleeps = format!("{} ", libc::SYS_futex);
        read("comm").trim() == "recoup-return" && read("syscall").starts_with(&sleeps)
    };
    let tasks = || std::fs::read_dir("/proc/self/task").expect("tasks").flatten();
    while !tasks().any(|task| is_it(&task.path())) {
        std::thread::yield_now();
    }
}

#[test]
fn a_child_does_not_wait_for_its_parent_s_thread() {
    let (pool, owner) = pool_of(Thp::inherited(), Bytes(GIB));
    drop(owner.chunks(Chunks(2)).expect("room"));
    let start = || pool.return_in_background(ReturnSettings::default());
    let mut background = Some(start().expect("a thread"));
    until_it_sleeps();
    let status = in_child(|| {
        // A panic would unwind into the parent's test.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(background.take()))).is_ok();
        let mut extent = owner.chunks(Chunks(3)).expect("room");
        extent.fill(1);
        drop(extent);
        // Its own thread it waits for.
        let own = start().map(Background::stop).is_ok();
        dropped && own && start().is_ok()
    });
    assert_eq!(status, 0);
    assert!(start().is_err(), "the parent's thread is still there");
    drop(background.take());
    assert!(start().is_ok());
}

/// Shared memory that children should get a copy of, which cannot be.
#[derive(Debug)]
struct Impossible(Thp);

// SAFETY: its gigabytes are those of another source.
unsafe impl Source for Impossible {
    fn kind(&self) -> Kind {
        Kind { forking: Thp::inherited().kind().forking, ..self.0.kind() }
    }

    fn take(&self) -> recoup_sys::Result<Gigabyte> {
        self.0.take()
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        self.0.put_back(gigabyte);
    }
}

#[test]
fn shared_memory_is_not_inherited() {
    let pool = Pool::new(Impossible(memfd()), Bytes(GIB));
    let owner = pool.owner(recoup::pool::OwnerOptions::default()).expect("an owner");
    assert!(matches!(owner.chunk(), Err(Error::Source { .. })));
}
