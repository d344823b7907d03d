//! Forked children: they have nothing of a pool, and whatever they do to it does no harm.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use recoup::pool::source::{Gigabyte, Kind};
use recoup::pool::{Error, External, HugeTlb, OwnerOptions, Pool, ReturnSettings, Source, Thp};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::units::BLOCK;
use recoup_testkit::{HugePages, kernel, require};

use crate::common::{
    End, GIB, all_are, assert_clean, assert_empty, child, memfd, owner, shared, start, wait,
};

/// What is there to be harmed: memory of all kinds, in use, at hand and free.
pub(crate) fn with_children(source: impl Source + 'static) {
    let pool = Pool::new(source, Bytes(2 * GIB));
    let [tenant, other] = [owner(&pool), owner(&pool)];
    let mut extent = tenant.chunks(Chunks(2)).expect("chunks");
    let mut page = tenant.pages(Pages(3)).expect("pages");
    let movable = tenant.movable(Chunks(1)).expect("a chunk");
    extent.fill(1);
    page.fill(2);
    movable.write().fill(3);
    drop((other.chunk(), other.chunks(Chunks(2)), tenant.chunk(), tenant.movable(Chunks(1))));
    for touched in [extent.as_ptr(), page.as_ptr()] {
        // SAFETY: in the child nothing is there, which is what is tried out.
        let touch = || unsafe { touched.as_ptr().read_volatile() } == 0;
        assert_eq!(child(touch), End::Signal(libc::SIGSEGV));
    }
    let background = pool.return_in_background(ReturnSettings::default()).expect("a thread");
    let mut all = Some((extent, page, movable, background));
    let harmless = || {
        let refused = |result: Result<_, Error>| matches!(result, Err(Error::Child));
        // There is one at hand, and there are pages of a chunk.
        let nothing = refused(tenant.chunk().map(drop))
            && refused(tenant.pages(Pages(1)).map(drop))
            && refused(tenant.chunks(Chunks(4)).map(drop))
            && refused(tenant.movable(Chunks(1)).map(drop))
            && refused(pool.owner(OwnerOptions::default()).map(drop))
            && refused(pool.owner(OwnerOptions::default().apart()).map(drop));
        let clean = pool.audit().is_ok_and(|audit| audit.present.0 == 0);
        pool.compact();
        pool.trim();
        drop(all.take());
        pool.trim();
        pool.compact();
        nothing && clean
    };
    assert_eq!(child(harmless), End::Exit(0));
    let (extent, page, movable, background) = all.take().expect("the child has its own");
    assert!(all_are(&extent, 1) && all_are(&page, 2) && all_are(&movable.read(), 3));
    assert_clean(&pool);
    drop((extent, page, movable, background.stop()));
    assert_empty(&pool);
}

#[test]
fn a_child_has_no_private_memory() {
    with_children(Thp::private());
}

#[test]
fn a_child_has_no_memory_of_a_memfd() {
    with_children(memfd());
}

#[test]
fn a_child_has_no_huge_pages() {
    let guard = HugePages::reserve(&[(BLOCK, 32)]);
    require!(guard.is_ok(), "32 huge pages of 2 MiB");
    with_children(HugeTlb::two_mib().expect("huge pages"));
    with_children(shared(HugeTlb::two_mib().expect("huge pages")));
}

#[test]
fn a_child_has_nothing_of_a_file() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(2 * GIB).expect("a sparse file");
    // SAFETY: nobody else has it.
    with_children(unsafe { External::new(file, Bytes(0)..Bytes(2 * GIB)) }.expect("a file"));
}

/// The file is the parent's, who lengthens it: a child that did so too would cut it.
#[test]
fn a_child_does_not_cut_its_parents_memory() {
    let pool = Pool::new(memfd(), Bytes(3 * GIB));
    let tenant = owner(&pool);
    let first = tenant.gigabyte().expect("a gigabyte");
    let (mut told, mut tell) = std::io::pipe().expect("a pipe");
    let late = start(|| {
        let told = told.read(&mut [0]).is_ok_and(|read| read == 1);
        told && matches!(tenant.gigabyte(), Err(Error::Child))
    });
    let mut others = [(); 2].map(|()| tenant.gigabyte().expect("a gigabyte"));
    others.iter_mut().for_each(|extent| *extent.last_mut().expect("bytes") = 1);
    tell.write_all(&[1]).expect("a reader");
    assert_eq!(wait(late), End::Exit(0));
    // Past the end of a file, a touch would be met by SIGBUS.
    assert!(others.iter().all(|extent| extent.last() == Some(&1)));
    drop(first);
}

/// A source that keeps whoever wants its second gigabyte waiting, who has the locks of an owner and of a
/// zone then.
#[derive(Debug)]
struct Slow {
    inner: Thp,
    taken: AtomicU32,
    asked: Sender<()>,
    answered: Mutex<Receiver<()>>,
}

// SAFETY: its gigabytes are those of another source.
unsafe impl Source for Slow {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn take(&self) -> recoup_sys::Result<Gigabyte> {
        if self.taken.fetch_add(1, Ordering::Relaxed) == 1 {
            self.asked.send(()).expect("the test");
            self.answered.lock().expect("one waits").recv().expect("the test");
        }
        self.inner.take()
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        self.inner.put_back(gigabyte);
    }
}

#[test]
fn a_child_waits_for_no_lock_of_a_thread_that_it_has_not() {
    let (asked, asks) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let (inner, answered) = (Thp::private(), Mutex::new(answered));
    let pool = Pool::new(Slow { inner, taken: AtomicU32::new(0), asked, answered }, Bytes(3 * GIB));
    let tenant = owner(&pool);
    let mut all = Some((tenant.chunk(), tenant.chunks(Chunks(2)), tenant.pages(Pages(3))));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| tenant.gigabyte().map(drop));
        asks.recv().expect("it is asked");
        let mut other = Some(tenant.clone());
        let drops = || {
            drop((all.take(), other.take()));
            pool.trim();
            matches!(tenant.chunks(Chunks(1)), Err(Error::Child))
        };
        let end = child(drops);
        answer.send(()).expect("it waits");
        assert_eq!(end, End::Exit(0));
        waiting.join().expect("no panic").expect("a gigabyte");
    });
    drop(all.take());
    assert_empty(&pool);
}

/// The first process of a PID namespace has the number of its child that is the first of another.
#[test]
fn a_child_is_told_by_more_than_its_number() {
    require!(kernel::is_root(), "root for namespaces");
    let end = in_new_namespace(|| {
        let pool = Pool::new(Thp::private(), Bytes(2 * GIB));
        let tenant = owner(&pool);
        let extent = tenant.gigabyte().expect("a gigabyte");
        let inner = in_new_namespace(|| {
            let same_number = std::process::id() == 1;
            same_number && matches!(tenant.gigabyte(), Err(Error::Child))
        });
        drop(extent);
        std::process::id() == 1 && inner == End::Exit(0)
    });
    assert_eq!(end, End::Exit(0));
}

/// Runs it in a child that is the first process of a PID namespace.
fn in_new_namespace(work: impl FnOnce() -> bool) -> End {
    child(|| {
        // SAFETY: concerns this process's children only.
        let apart = unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0;
        apart && child(work) == End::Exit(0)
    })
}

/// Also a child that is forked while memory comes into the pool cannot touch it.
#[test]
fn a_child_of_any_moment_has_no_memory() {
    let pool = Pool::new(memfd(), Bytes(4 * GIB));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let tenant = owner(&pool);
            while !done.load(Ordering::Relaxed) {
                drop(tenant.gigabyte().expect("a gigabyte"));
                pool.trim();
                pool.compact();
            }
        });
        let usable = |line: &str| line.contains("memfd:recoup-pool") && line.contains(" rw");
        for _ in 0..1000 {
            let end = child(|| {
                // Without the allocator, whose locks others may have held.
                let mut maps = [0; 1 << 16];
                let mut file = File::open("/proc/self/maps").expect("maps");
                let mut length = 0;
                while let Ok(read @ 1..) = file.read(&mut maps[length..]) {
                    length += read;
                }
                let text = std::str::from_utf8(&maps[..length]).expect("text");
                !text.lines().any(usable)
            });
            done.store(end != End::Exit(0), Ordering::Relaxed);
            assert_eq!(end, End::Exit(0), "in its maps");
        }
        done.store(true, Ordering::Relaxed);
    });
}
