//! Every source behaves alike: memory comes, is its owner's alone, and goes back. What a source has handed
//! out is read from `pagemap`, from sysfs or from the file's blocks.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use recoup::pool::source::Unfit;
use recoup::pool::{External, HugeTlb, OwnerOptions, Pool, Thp};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_testkit::{HugePages, kernel, require, require_in_guest};

use crate::common::{
    CHUNK, GIB, all_are, assert_clean, assert_empty, file_at, file_takes, gigabyte_around,
    in_memory, memfd, owner, shared,
};

/// A pool, the unit in which its source gives memory, and how much of it is taken.
struct Case {
    pool: Pool,
    unit: u64,
    /// Given some memory of the pool, says what to ask from then on.
    taken: fn(&[u8]) -> Box<dyn Fn() -> u64>,
    /// What stays where it was after the pool's end.
    left: u64,
}

fn of_addresses(bytes: &[u8]) -> Box<dyn Fn() -> u64> {
    let addresses = gigabyte_around(bytes);
    Box::new(move || in_memory(addresses.clone()))
}

fn of_file(bytes: &[u8]) -> Box<dyn Fn() -> u64> {
    let file = file_at(bytes);
    Box::new(move || file_takes(&file))
}

fn of_blocks(_: &[u8]) -> Box<dyn Fn() -> u64> {
    Box::new(|| in_use(BLOCK))
}

fn of_gigabytes(_: &[u8]) -> Box<dyn Fn() -> u64> {
    Box::new(|| in_use(PMD_TABLE_SPAN))
}

fn in_use(page: Bytes) -> u64 {
    let count = |file| kernel::hugetlb(page.0, file).expect("a pool");
    (count("nr_hugepages") - count("free_hugepages")) * page.0
}

/// What all sources have in common.
fn behaves(case: Case) {
    let Case { pool, unit, taken, left } = case;
    let [first, second] = [owner(&pool), owner(&pool)];
    let mut extents: Vec<_> = (0..6).map(|_| first.chunk().expect("a chunk")).collect();
    let taken = taken(&extents[0]);
    let needed = |chunks: u64| (chunks * CHUNK).next_multiple_of(unit);
    for extent in &mut extents {
        assert!(all_are(extent, 0));
        extent.fill(1);
    }
    assert_eq!(taken(), needed(6));
    assert_clean(&pool);
    extents.truncate(3);
    pool.trim();
    assert_eq!(taken(), needed(3));
    assert!(extents.iter().all(|extent| all_are(extent, 1)));
    assert_clean(&pool);
    drop(extents);
    drop(first);
    // What is free is not given back yet, and somebody else gets it.
    let chunk = second.chunk().expect("a chunk");
    let mut run = second.chunks(Chunks(4)).expect("chunks");
    let mut page = second.pages(Pages(5)).expect("pages");
    let movable = second.movable(Chunks(2)).expect("chunks");
    let all = [&chunk[..], &run, &page, &movable.read()].map(|bytes| all_are(bytes, 0));
    assert_eq!(all, [true; 4]);
    run.fill(2);
    page.fill(3);
    movable.write().fill(4);
    let pinned = movable.pin().expect("room");
    pool.compact();
    assert!(all_are(&run, 2) && all_are(&page, 3) && all_are(&pinned, 4) && all_are(&chunk, 0));
    assert_clean(&pool);
    drop((chunk, run, page, pinned));
    assert_empty(&pool);
    assert_eq!(taken(), 0);
    let mut last = second.chunks(Chunks(2)).expect("chunks");
    last.fill(5);
    assert_eq!(taken(), needed(2));
    drop((last, second, pool));
    assert_eq!(taken(), left);
}

#[test]
fn private_memory() {
    let pool = Pool::new(Thp::private(), Bytes(4 * GIB));
    behaves(Case { pool, unit: CHUNK, taken: of_addresses, left: 0 });
}

#[test]
fn a_memfd() {
    let pool = Pool::new(memfd(), Bytes(4 * GIB));
    behaves(Case { pool, unit: CHUNK, taken: of_file, left: 0 });
}

#[test]
fn huge_pages_of_two_mib() {
    let guard = HugePages::reserve(&[(BLOCK, 32)]);
    require!(guard.is_ok(), "32 huge pages of 2 MiB");
    let source = || HugeTlb::two_mib().expect("huge pages");
    let pool = |source: HugeTlb| Pool::new(source, Bytes(4 * GIB));
    behaves(Case { pool: pool(source()), unit: CHUNK, taken: of_blocks, left: 0 });
    let shared = shared(source());
    behaves(Case { pool: pool(shared), unit: CHUNK, taken: of_blocks, left: 0 });
}

#[test]
fn a_huge_gigabyte() {
    let guard = HugePages::reserve(&[(PMD_TABLE_SPAN, 3)]);
    require_in_guest!("gigabytes", guard.is_ok(), "3 huge pages of 1 GiB");
    let source = || HugeTlb::one_gib().expect("huge pages");
    let pool = |source: HugeTlb| Pool::new(source, Bytes(4 * GIB));
    behaves(Case { pool: pool(source()), unit: GIB, taken: of_gigabytes, left: 0 });
    let shared = shared(source());
    behaves(Case { pool: pool(shared), unit: GIB, taken: of_gigabytes, left: 0 });
}

#[test]
fn a_huge_gigabyte_goes_back_whole_or_in_parts() {
    const PAGES: u64 = 3;
    let guard = HugePages::reserve(&[(BLOCK, 0), (PMD_TABLE_SPAN, PAGES)]);
    require_in_guest!("gigabytes", guard.is_ok(), "3 huge pages of 1 GiB");
    let free = || kernel::hugetlb(PMD_TABLE_SPAN.0, "free_hugepages").expect("a pool");
    let pool = Pool::new(HugeTlb::one_gib().expect("huge pages"), Bytes(PAGES * GIB));
    let tenant = owner(&pool);
    let mut all: Vec<_> = std::iter::from_fn(|| tenant.gigabyte().ok()).collect();
    assert_eq!((all.len() as u64, free()), (PAGES, 0));
    all.iter_mut().for_each(|extent| (extent[0], extent[(1 << 30) - 1]) = (1, 2));
    all.pop();
    pool.trim();
    assert_eq!(free(), 1);
    assert_clean(&pool);
    drop((all, tenant, pool));
    assert_eq!(free(), PAGES);

    let split = HugeTlb::one_gib().expect("as before").demote(1).expect("root splits");
    assert_eq!((split.done, free()), (1, PAGES - 1));
    let pool = Pool::new(HugeTlb::two_mib().expect("2 MiB pages"), Bytes(GIB));
    assert!(owner(&pool).gigabyte().is_ok(), "512 pages that were one");
}

/// A source of a file, the rest of which is the test's.
fn external(file: &File, length: u64) -> External {
    let file = file.try_clone().expect("the same file");
    // SAFETY: the tests change it only where they say so, before and after the pool's life.
    unsafe { External::new(file, Bytes(0)..Bytes(length)) }.expect("a file")
}

#[test]
fn a_file() {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.set_len(4 * GIB).expect("a sparse file");
    behaves(Case {
        pool: Pool::new(external(&file, 4 * GIB), Bytes(4 * GIB)),
        unit: CHUNK,
        taken: of_file,
        left: 2 * CHUNK,
    });
}

#[test]
fn what_a_file_held_before_is_seen_by_nobody() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(GIB).expect("a sparse file");
    let secret = vec![0xaa; 1 << 20];
    (0..16).for_each(|place| file.write_all_at(&secret, place << 20).expect("room"));
    let pool = Pool::new(external(&file, GIB), Bytes(GIB));
    let tenant = owner(&pool);
    let extents: Vec<_> = (0..3).map(|_| tenant.chunk().expect("a chunk")).collect();
    assert!(extents.iter().all(|extent| all_are(extent, 0)));
    let page = tenant.pages(Pages(1)).expect("a page");
    let run = tenant.chunks(Chunks(2)).expect("chunks");
    assert!(all_are(&page, 0) && all_are(&run, 0));
    drop((extents, page, run));
    assert_empty(&pool);
}

/// Bytes of the file before and behind it are somebody else's.
#[test]
fn a_range_of_a_file() {
    const BEFORE: u64 = 5 * 4096;
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.set_len(4 * GIB).expect("a sparse file");
    let range = BEFORE..BEFORE + 2 * GIB + CHUNK;
    let others = [0, BEFORE - 1, BEFORE + 2 * GIB, range.end];
    others.iter().for_each(|&at| file.write_all_at(&[9], at).expect("room"));
    let taken = || file.metadata().expect("the file").blocks() * 512;
    let before = taken();
    let of = file.try_clone().expect("the same file");
    // SAFETY: nobody else has the gigabytes in the range, which are what the pool uses.
    let source = unsafe { External::new(of, Bytes(range.start)..Bytes(range.end)) };
    let pool = Pool::new(source.expect("a range of the file"), Bytes(4 * GIB));
    let byte = |at| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).map(|()| byte[0]).expect("a byte")
    };
    // Each owner has a gigabyte to itself. In the second round they are those that came back.
    for _ in 0..2 {
        let apart = || pool.owner(OwnerOptions::default().apart()).expect("an owner");
        let owners = [apart(), apart()];
        let mut all = owners.each_ref().map(|owner| owner.chunk().expect("a chunk"));
        assert!(apart().chunk().is_err(), "what is left is no gigabyte");
        for extent in &mut all {
            let last = extent.len() - 1;
            (extent[0], extent[last]) = (1, 2);
        }
        let ends = [0, CHUNK - 1, GIB, GIB + CHUNK - 1].map(|place| BEFORE + place);
        assert_eq!(ends.map(byte), [1, 2, 1, 2]);
        assert_eq!(others.map(byte), [9; 4]);
        assert_clean(&pool);
        drop(all);
        assert_empty(&pool);
        assert_eq!((ends.map(byte), others.map(byte), taken()), ([0; 4], [9; 4], before));
        drop(owners);
    }
}

/// Refused before a touch finds out, each with what to do.
#[test]
fn ranges_that_are_no_memory() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(2 * GIB).expect("a sparse file");
    let refused = |range: std::ops::Range<u64>| {
        let file = file.try_clone().expect("the same file");
        // SAFETY: nothing comes of it.
        let source = unsafe { External::new(file, Bytes(range.start)..Bytes(range.end)) };
        source.expect_err("no such range")
    };
    let cases = [(0..GIB - 1, "longer"), (4095..2 * GIB, "0x1000"), (0..2 * GIB + 1, "lengthen")];
    for (range, what_to_do) in cases {
        let error = refused(range);
        assert!(error.to_string().contains(what_to_do), "{error}");
    }
    assert!(matches!(refused(GIB..GIB), Unfit::TooShort { .. }));
    assert!(matches!(refused(4096..4096 + 2 * GIB), Unfit::PastEnd { .. }));
    let pipe = std::io::pipe().expect("a pipe").0;
    // SAFETY: as above.
    let source =
        unsafe { External::new(std::os::fd::OwnedFd::from(pipe).into(), Bytes(0)..Bytes(GIB)) };
    let error = source.expect_err("a pipe").to_string();
    assert!(error.contains("can be mapped"), "{error}");
}

/// Memory that cannot be given back before the pool's end, and keeps what was last in it.
#[test]
fn a_block_device() {
    require!(kernel::is_root(), "root for a loop device");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(GIB).expect("a sparse file");
    file.write_all(&vec![0xaa; 4 << 20]).expect("room");
    let device = LoopDevice::over(file.path());
    require!(device.is_some(), "loop devices (losetup)");
    let device = device.expect("a loop device");
    let open = || File::options().read(true).write(true).open(&device.0).expect("the device");
    let pool = Pool::new(external(&open(), GIB), Bytes(GIB));
    let tenant = owner(&pool);
    let mut extents: Vec<_> = (0..4).map(|_| tenant.chunk().expect("a chunk")).collect();
    assert!(extents.iter().all(|extent| all_are(extent, 0)));
    extents.iter_mut().for_each(|extent| extent.fill(7));
    assert_clean(&pool);
    drop(extents);
    assert_empty(&pool);
    drop((tenant, pool));
    let mut bytes = vec![0; 8 << 20];
    open().read_exact_at(&mut bytes, 0).expect("the device");
    assert!(all_are(&bytes, 7));
    // It says how long it is.
    // SAFETY: nothing comes of it.
    let beyond = unsafe { External::new(open(), Bytes(CHUNK)..Bytes(CHUNK + GIB)) };
    assert!(matches!(beyond, Err(Unfit::PastEnd { length: Bytes(GIB), .. })), "{beyond:?}");
}

/// A loop device, until it is dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn over(file: &std::path::Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(Self(name))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
