//! Sources that have too little: a clear error before any touch, nothing lost, nothing kept.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use recoup::pool::{Error, External, HugeTlb, OwnerOptions, Pool, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_testkit::{HugePages, kernel, require, require_in_guest};

use crate::common::{CHUNK, GIB, all_are, assert_clean, assert_empty, owner, shared};

fn free(page: Bytes) -> u64 {
    kernel::hugetlb(page.0, "free_hugepages").expect("a pool")
}

/// A pool over a source with 8 chunks of memory.
fn with_eight_chunks(pool: &Pool, left: impl Fn() -> u64) {
    let tenant = owner(pool);
    let mut all: Vec<_> = std::iter::from_fn(|| tenant.chunk().ok()).collect();
    assert_eq!((all.len(), left()), (8, 0));
    all.iter_mut().for_each(|extent| extent.fill(1));
    for refused in [tenant.chunk(), tenant.chunks(Chunks(2)), tenant.gigabyte()] {
        assert!(matches!(refused, Err(Error::Source { .. })), "{refused:?}");
    }
    assert!(matches!(tenant.movable(Chunks(1)), Err(Error::Source { .. })));
    assert!(all.iter().all(|extent| all_are(extent, 1)));
    assert_clean(pool);
    // 4 are left, of which 6 cannot be had; and they are not lost by that.
    all.truncate(4);
    pool.trim();
    assert_eq!(left(), 4);
    assert!(matches!(tenant.chunks(Chunks(6)), Err(Error::Source { .. })));
    assert_eq!((left(), tenant.used()), (4, Bytes(4 * CHUNK)));
    let mut run = tenant.chunks(Chunks(4)).expect("all that is left");
    run.fill(2);
    assert!(all.iter().all(|extent| all_are(extent, 1)));
    assert_clean(pool);
    drop((run, all));
    assert_empty(pool);
    assert_eq!(left(), 8);
}

#[test]
fn huge_pages_of_two_mib() {
    let guard = HugePages::reserve(&[(BLOCK, 8)]);
    require!(guard.is_ok(), "8 huge pages of 2 MiB");
    require!(free(BLOCK) == 8, "a machine where nobody else has huge pages");
    let source = || HugeTlb::two_mib().expect("huge pages");
    with_eight_chunks(&Pool::new(source(), Bytes(4 * GIB)), || free(BLOCK));
    let shared = shared(source());
    with_eight_chunks(&Pool::new(shared, Bytes(4 * GIB)), || free(BLOCK));
    assert_eq!(free(BLOCK), 8);
}

#[test]
fn a_huge_gigabyte() {
    let guard = HugePages::reserve(&[(PMD_TABLE_SPAN, 1)]);
    require_in_guest!("gigabytes", guard.is_ok(), "a huge page of 1 GiB");
    require_in_guest!(
        "gigabytes",
        free(PMD_TABLE_SPAN) == 1,
        "a machine where nobody else has huge pages"
    );
    let source = || HugeTlb::one_gib().expect("huge pages");
    for pool in [Pool::new(source(), Bytes(4 * GIB)), Pool::new(shared(source()), Bytes(4 * GIB))] {
        let tenant = owner(&pool);
        let mut all: Vec<_> = std::iter::from_fn(|| tenant.chunk().ok()).collect();
        assert_eq!((all.len(), free(PMD_TABLE_SPAN)), (512, 0));
        all.iter_mut().for_each(|extent| extent[4096] = 1);
        let refused = tenant.chunk().expect_err("no page is left").to_string();
        assert!(
            refused.contains("1 GiB hugetlb pages") && refused.contains("free some"),
            "{refused}"
        );
        drop(all);
        assert_empty(&pool);
        assert_eq!(free(PMD_TABLE_SPAN), 1);
    }
}

/// Free memory that is kept elsewhere in the pool is no reason to refuse.
#[test]
fn what_others_have_freed_goes_back_for_who_needs_it() {
    let guard = HugePages::reserve(&[(BLOCK, 8)]);
    require!(guard.is_ok(), "8 huge pages of 2 MiB");
    require!(free(BLOCK) == 8, "a machine where nobody else has huge pages");
    let pool = Pool::new(HugeTlb::two_mib().expect("huge pages"), Bytes(4 * GIB));
    let apart = pool.owner(OwnerOptions::default().apart()).expect("an owner");
    let mut all: Vec<_> = (0..8).map(|_| apart.chunk().expect("a chunk")).collect();
    all.truncate(1);
    assert_eq!(free(BLOCK), 0);
    let tenant = owner(&pool);
    let mut run = tenant.chunks(Chunks(4)).expect("what the other one has freed");
    run.fill(1);
    assert_clean(&pool);
}

/// A file on a file system that is full: holes in it cannot be filled.
#[test]
fn a_file_system() {
    require!(kernel::is_root(), "root for a mount");
    let file = file_on_small_disk(16 << 20);
    file.set_len(4 * GIB).expect("a sparse file");
    let space = || 8 - file.metadata().expect("the file").blocks() * 512 / CHUNK;
    let of = file.try_clone().expect("the same file");
    // SAFETY: nobody else has it.
    let source = unsafe { External::new(of, Bytes(0)..Bytes(4 * GIB)) }.expect("a file");
    with_eight_chunks(&Pool::new(source, Bytes(4 * GIB)), space);
}

/// A file on a tmpfs of that size, which lives as long as the file.
fn file_on_small_disk(bytes: u64) -> File {
    let make = move || {
        // A file system that only this thread sees.
        // SAFETY: concerns this thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("text").to_owned();
        let (place, kind) = (std::ffi::CString::new(path).expect("text"), c"tmpfs");
        let options = std::ffi::CString::new(format!("size={bytes}")).expect("text");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        // SAFETY: the strings live until the call returns.
        assert_eq!(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) }, 0);
        let (name, data) = (kind.as_ptr(), options.as_ptr().cast());
        // SAFETY: as above.
        assert_eq!(unsafe { libc::mount(name, place.as_ptr(), name, 0, data) }, 0);
        let file = tempfile::tempfile_in(directory.path()).expect("a file");
        // SAFETY: as above.
        assert_eq!(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) }, 0);
        file
    };
    std::thread::spawn(make).join().expect("a file system")
}

/// Addresses are a source, too.
#[test]
fn addresses() {
    let pool = Pool::new(Thp::private(), Bytes(u64::MAX));
    let refused = pool.owner(OwnerOptions::default()).expect_err("so many addresses").to_string();
    assert!(refused.contains("addresses") && refused.contains("ulimit -v"), "{refused}");
}

/// A return that the kernel refuses in part leaves nothing that counts as backed and is not.
#[test]
fn what_could_not_go_back_still_has_its_memory() {
    require!(kernel::is_root(), "root for a mount");
    let file = file_on_small_disk(16 << 20);
    file.set_len(2 * GIB).expect("a sparse file");
    let of = file.try_clone().expect("the same file");
    // SAFETY: nobody else has its first gigabyte.
    let pool =
        Pool::new(unsafe { External::new(of, Bytes(0)..Bytes(GIB)) }.expect("a file"), Bytes(GIB));
    let tenant = owner(&pool);
    let mut all: Vec<_> = (0..8).map(|_| tenant.chunk().expect("a chunk")).collect();
    let _keeps_it_attached = all.remove(0);
    let locked = &all[4];
    // SAFETY: changes no byte. Whoever locks memory of an extent has to unlock it; here nobody does.
    assert_eq!(unsafe { libc::mlock(locked.as_ptr().as_ptr().cast(), locked.len()) }, 0);
    drop(all);
    assert_eq!(pool.trim().failed, 1);
    // Somebody else takes the room that has come back.
    let page = [1; 4096];
    let written =
        (GIB..).step_by(page.len()).take_while(|&at| file.write_all_at(&page, at).is_ok());
    assert_eq!(written.count(), 6 * 512);
    let mut all: Vec<_> = std::iter::from_fn(|| tenant.chunk().ok()).collect();
    assert_eq!(all.len(), 1);
    all.iter_mut().for_each(|extent| extent.fill(1));
    assert_clean(&pool);
}
