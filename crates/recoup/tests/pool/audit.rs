//! An audit finds what must not be, and nothing else. What only the books can get wrong is planted in
//! the module's own tests.

use std::fs::File;
use std::os::fd::AsRawFd;

use recoup::pool::{HugeTlb, Pool, Source, Thp, Violation};
use recoup_core::Chunks;
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Pages};
use recoup_testkit::{HugePages, kernel, require};

use crate::common::{End, GIB, all_are, assert_clean, file_at, memfd, owner, shared, start, wait};

/// Reading what was never written maps the kernel's page of zeroes, which is everybody's.
#[test]
fn memory_that_was_only_read_is_nobody_elses() {
    for source in [Thp::private(), memfd()] {
        let pool = Pool::new(source, Bytes(GIB));
        let tenant = owner(&pool);
        let extents: Vec<_> = (0..4).map(|_| tenant.chunk().expect("a chunk")).collect();
        assert!(extents.iter().all(|extent| all_are(extent, 0)));
        let mut page = tenant.pages(recoup_core::units::Pages(4)).expect("pages");
        assert!(all_are(&page, 0));
        page[0] = 1;
        assert_clean(&pool);
    }
}

#[test]
fn the_page_of_zeroes_is_no_memory() {
    require!(
        kernel::version() >= (6, 7),
        "PAGEMAP_SCAN, which tells the page of zeroes (Linux 6.7)"
    );
    let pool = Pool::new(Thp::private(), Bytes(GIB));
    let extent = owner(&pool).chunks(Chunks(3)).expect("chunks");
    assert!(all_are(&extent, 0));
    assert_eq!(pool.audit().expect("pagemap").present, Pages(0));
}

/// The memfd that is mapped at an address, opened once more.
fn memfd_of(bytes: &[u8]) -> File {
    let (_, inode) = file_at(bytes);
    let files = std::fs::read_dir("/proc/self/fd").expect("fds").flatten();
    let is_it = |path: &std::path::PathBuf| {
        use std::os::unix::fs::MetadataExt;
        let name = std::fs::read_link(path).unwrap_or_default();
        let of_pool = name.to_string_lossy().contains("recoup-pool");
        of_pool && std::fs::metadata(path).is_ok_and(|about| about.ino() == inode)
    };
    let path = files.map(|file| file.path()).find(is_it).expect("the memfd");
    File::options().read(true).write(true).open(path).expect("the memfd")
}

/// Maps a memfd's first bytes once more, and touches them.
fn map_again(file: &File, length: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (none, sharing) = (std::ptr::null_mut(), libc::MAP_SHARED);
    // SAFETY: no address is asked for, so no existing mapping is replaced.
    let again = unsafe { libc::mmap(none, length, protection, sharing, file.as_raw_fd(), 0) };
    assert_ne!(again, libc::MAP_FAILED);
    let again = again.cast::<u8>();
    // SAFETY: just mapped; the bytes are somebody's who does not look at them now.
    let _ = unsafe { again.read_volatile() };
    again
}

/// By this process and by another one.
fn finds_a_second_mapping(source: impl Source + 'static) {
    let pool = Pool::new(source, Bytes(GIB));
    let tenant = owner(&pool);
    let mut extent = tenant.chunks(Chunks(2)).expect("chunks");
    extent.fill(1);
    assert_clean(&pool);
    let file = memfd_of(&extent);
    let (told, mut tell) = std::io::pipe().expect("a pipe");
    let (mut ready, is_ready) = std::io::pipe().expect("a pipe");
    let other = start(move || {
        use std::io::{Read, Write};
        map_again(&file, 4 << 20);
        let mut told = told;
        let _ = (&is_ready).write(&[1]);
        told.read(&mut [0]).is_ok()
    });
    std::io::Read::read_exact(&mut ready, &mut [0]).expect("the child");
    let is_shared = |violation: &Violation| matches!(violation, Violation::Shared(_));
    let violations = pool.audit().expect("pagemap").violations;
    assert!(violations.iter().any(is_shared) && violations.iter().all(is_shared), "{violations:?}");
    std::io::Write::write_all(&mut tell, &[1]).expect("the child");
    assert_eq!(wait(other), End::Exit(0));
    assert_clean(&pool);
    let file = memfd_of(&extent);
    let again = map_again(&file, 4 << 20);
    let violations = pool.audit().expect("pagemap").violations;
    assert!(violations.iter().any(is_shared) && violations.iter().all(is_shared), "{violations:?}");
    // SAFETY: mapped above, and used by nobody.
    assert_eq!(unsafe { libc::munmap(again.cast(), 4 << 20) }, 0);
    assert_clean(&pool);
}

#[test]
fn a_second_mapping_of_a_memfd() {
    finds_a_second_mapping(memfd());
}

#[test]
fn a_second_mapping_of_huge_pages() {
    let guard = HugePages::reserve(&[(BLOCK, 8)]);
    require!(guard.is_ok(), "8 huge pages of 2 MiB");
    let source = HugeTlb::two_mib().expect("huge pages");
    finds_a_second_mapping(shared(source));
}

/// A child that was given the memory by hand.
#[test]
fn memory_that_a_child_has() {
    for source in [Thp::private(), memfd()] {
        let pool = Pool::new(source, Bytes(GIB));
        let tenant = owner(&pool);
        let mut extent = tenant.chunks(Chunks(2)).expect("chunks");
        extent.fill(1);
        let (start_of, length) = (extent.as_ptr().as_ptr(), extent.len());
        let keep = |advice| {
            // SAFETY: changes no byte.
            assert_eq!(unsafe { libc::madvise(start_of.cast(), length, advice) }, 0);
        };
        keep(libc::MADV_DOFORK);
        let (told, tell) = std::io::pipe().expect("a pipe");
        let (mut ready, is_ready) = std::io::pipe().expect("a pipe");
        let heir = start(move || {
            use std::io::{Read, Write};
            // SAFETY: the child has it.
            let inherited = unsafe { start_of.read_volatile() } == 1;
            let _ = (&is_ready).write(&[1]);
            let mut told = told;
            inherited && told.read(&mut [0]).is_ok()
        });
        std::io::Read::read_exact(&mut ready, &mut [0]).expect("the child");
        let violations = pool.audit().expect("pagemap").violations;
        let is_shared = |violation: &Violation| matches!(violation, Violation::Shared(_));
        assert!(violations.iter().any(is_shared), "{violations:?}");
        keep(libc::MADV_DONTFORK);
        std::io::Write::write_all(&mut { tell }, &[1]).expect("the child");
        assert_eq!(wait(heir), End::Exit(0));
        assert_clean(&pool);
    }
}
