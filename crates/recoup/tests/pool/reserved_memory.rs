//! Memory without struct pages: what the guest `reserved` of `cargo xtask vm-test` keeps from its kernel, by
//! `/dev/mem`. What is there is read through a mapping of the test's own, and from the kernel's counts.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use recoup::pool::source::{Gigabyte, Kind, Metadata, Unfit};
use recoup::pool::{Advice, Error, Extent, External, OwnerOptions, Pool, Source, Violation};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::numa::Node;
use recoup_testkit::numbers::Numbers;
use recoup_testkit::{kernel, require, require_in_guest};

use crate::common::{CHUNK, GIB, all_are, assert_clean, assert_empty, owner};
use crate::fork::with_children;

const WHAT: &str = "memory that the kernel leaves alone (memmap=2G$4G)";

/// The memory, where this is the guest that has it: elsewhere it may be anybody's.
fn range() -> Option<Range<u64>> {
    let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let is_there = |wanted| words.split_whitespace().any(|word| word == wanted);
    let here = is_there("recoup.guest=reserved") && is_there("memmap=2G$4G");
    here.then_some(4 * GIB..6 * GIB)
}

fn open() -> File {
    File::options().read(true).write(true).open("/dev/mem").expect("root")
}

fn part(range: Range<u64>) -> Result<External, Unfit> {
    // SAFETY: neither the kernel nor anybody else uses it; tests run one by one there.
    unsafe { External::new(open(), Bytes(range.start)..Bytes(range.end)) }
}

/// A source of all of it, if this is the place.
pub(crate) fn reserved() -> Option<External> {
    range().map(|range| part(range).expect("memory that can be mapped"))
}

/// Where an extent is in the machine's memory, by what is mapped at its address.
fn place(extent: &Extent) -> u64 {
    let start = extent.as_ptr().addr().get() as u64;
    let number = |text| u64::from_str_radix(text, 16).expect("a number");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let places = maps.lines().filter(|line| line.ends_with("/dev/mem")).map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let (from, to) = words[0].split_once('-').expect("a range");
        (number(from)..number(to), number(words[2]))
    });
    let mut here = places.filter(|(addresses, _)| addresses.contains(&start));
    here.next().map(|(addresses, offset)| offset + start - addresses.start).expect("a mapping")
}

/// The bytes at a place, mapped once more.
fn bytes_at(place: u64, length: usize) -> Vec<u8> {
    let offset = libc::off_t::try_from(place).expect("63 bits");
    let (none, descriptor) = (std::ptr::null_mut(), open());
    let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: no address is asked for, so no existing mapping is replaced.
    let start = unsafe { libc::mmap(none, length, read, shared, descriptor.as_raw_fd(), offset) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: mapped above; nobody writes there now.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) }.to_vec();
    // SAFETY: as above, and nobody uses it any more.
    assert_eq!(unsafe { libc::munmap(start, length) }, 0);
    bytes
}

#[test]
fn it_costs_no_metadata_and_is_no_memory_of_the_machine() {
    let range = range();
    require_in_guest!("reserved", range.is_some(), WHAT);
    require!(kernel::struct_pages() > 0, "counted struct pages (Linux 6.11)");
    let range = range.expect("just looked");
    let counts = || (kernel::struct_pages(), kernel::meminfo_bytes("MemTotal"));
    let before = counts();
    assert!(before.1 < 3 * GIB, "{before:?}");
    let pool = Pool::new(part(range.clone()).expect("it can be mapped"), Bytes(2 * GIB));
    let tenant = owner(&pool);
    let available = kernel::available_bytes();
    let extents = [(); 2].map(|()| {
        let mut extent = tenant.gigabyte().expect("a gigabyte");
        extent.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        extent
    });
    assert_eq!(counts(), before);
    // Page tables for two gigabytes are 4 MiB.
    assert!(available < kernel::available_bytes() + (64 << 20));
    assert_eq!(extents.each_ref().map(place), [range.start, range.start + GIB]);
    // A frame without struct page is KPF_NOPAGE, or past the end.
    let mut flags = [0; 8];
    let file = File::open("/proc/kpageflags").expect("root");
    let read = file.read_at(&mut flags, (range.start >> 12) * 8).expect("flags");
    assert!(read == 0 || u64::from_ne_bytes(flags) == 1 << 20, "{flags:?}");
    assert_clean(&pool);
}

#[test]
fn what_is_written_is_there_and_the_next_owner_gets_zeroes() {
    let range = range();
    require_in_guest!("reserved", range.is_some(), WHAT);
    let range = range.expect("just looked");
    let source = part(range.clone()).expect("it can be mapped");
    assert_eq!(source.kind().metadata, Metadata::None);
    let pool = Pool::new(source, Bytes(2 * GIB));
    let [first, second] = [owner(&pool), owner(&pool)];
    let mut extent = first.chunks(Chunks(3)).expect("chunks");
    extent.prefault(NonZeroUsize::MIN).expect("it is there");
    assert!(all_are(&extent, 0));
    let mut random = Numbers::new(0x5eed);
    extent
        .chunks_mut(4096)
        .for_each(|page| page.fill(u8::try_from(1 + random.below(255)).expect("a byte")));
    let at = place(&extent);
    assert!(range.contains(&at));
    assert!(bytes_at(at, extent.len()) == extent[..]);
    assert_clean(&pool);
    let stays = second.pages(Pages(1)).expect("a page");
    drop((extent, first));
    // Nothing goes back before the gigabyte does, nor does a try fail.
    let returned = pool.trim();
    assert_eq!((returned.bytes, returned.gigabytes, returned.failed), (Bytes(0), 0, 0));
    let run = second.chunks(Chunks(3)).expect("chunks");
    assert_eq!(place(&run), at);
    assert!(all_are(&run, 0) && all_are(&bytes_at(at, run.len()), 0));
    assert_clean(&pool);
    drop((run, stays));
    assert_empty(&pool);
}

#[test]
fn it_is_refused_when_it_is_used_up_and_every_byte_of_it_can_be_used() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), WHAT);
    let pool = Pool::new(source.expect("just looked"), Bytes(4 * GIB));
    let tenant = owner(&pool);
    let mut all: Vec<_> = std::iter::from_fn(|| tenant.chunk().ok()).collect();
    assert_eq!(all.len() as u64, 2 * GIB / CHUNK);
    let refused = tenant.chunk().expect_err("there is no more").to_string();
    assert!(refused.contains("an external device: ") && refused.contains("free some"), "{refused}");
    for (extent, value) in all.iter_mut().zip((1..=251).cycle()) {
        extent.fill(value);
    }
    assert!(all.iter().zip((1..=251).cycle()).all(|(extent, value)| all_are(extent, value)));
    assert_clean(&pool);
    let places: std::collections::BTreeSet<u64> = all.iter().map(place).collect();
    assert_eq!(places.len(), all.len());
    all.truncate(10);
    drop(tenant.chunks(Chunks(100)).expect("what was freed"));
    drop(all);
    assert_empty(&pool);
}

#[test]
fn a_compaction_empties_a_gigabyte_of_it() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), WHAT);
    let pool = Pool::new(source.expect("just looked"), Bytes(2 * GIB));
    let tenant = owner(&pool);
    let mut all: Vec<_> = std::iter::from_fn(|| tenant.movable(Chunks(64)).ok()).collect();
    assert_eq!(all.len(), 16);
    let mut number = 0;
    all.retain(|_| {
        number += 1;
        number % 3 == 0
    });
    for (movable, value) in all.iter().zip(1..) {
        movable.write().fill(value);
    }
    let done = pool.compact();
    assert!(done.returned == 1 && done.moved > Bytes(0), "{done:?}");
    assert!(all.iter().zip(1..).all(|(movable, value)| all_are(&movable.read(), value)));
    assert_clean(&pool);
    drop(all);
    assert_empty(&pool);
}

#[test]
fn a_child_has_none_of_it() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), WHAT);
    with_children(source.expect("just looked"));
}

/// Whether the kernel gets at pages by their struct pages, as what pins memory does.
fn pinned(bytes: &[u8]) -> Result<(), i32> {
    let mut byte = [0_u8];
    let part = |start, iov_len| libc::iovec { iov_base: start, iov_len };
    let (to, from) = (part(byte.as_mut_ptr().cast(), 1), part(bytes.as_ptr().cast_mut().cast(), 1));
    // SAFETY: writes one byte, which is this function's, or refuses.
    let read = unsafe {
        libc::process_vm_readv(kernel::own_pid(), &raw const to, 1, &raw const from, 1, 0)
    };
    if read == 1 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

/// Also of a node, though nothing moves it there.
#[test]
fn what_the_kernel_refuses_there_is_refused_before_or_does_no_harm() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), WHAT);
    let pool = Pool::new(source.expect("just looked"), Bytes(2 * GIB));
    let tenant = owner(&pool);
    let mut extent = tenant.chunk().expect("a chunk");
    extent.fill(7);
    for advice in [Advice::Cold, Advice::PageOut, Advice::Collapse, Advice::Discard] {
        let refused = extent.advise(advice).expect_err("there are no struct pages");
        assert!(matches!(refused, Error::Advice { .. }), "{refused}");
    }
    assert!(all_are(&extent, 7));
    assert_eq!(pinned(&extent), Err(libc::EFAULT));
    let options = OwnerOptions::default().node(Node(0));
    let bound = pool.owner(options).expect("a node").chunk().expect("a chunk");
    assert!(all_are(&bound, 0));
    assert_clean(&pool);
    drop((extent, bound));
    assert_empty(&pool);
}

#[test]
fn a_range_is_taken_from_where_it_starts() {
    let range = range();
    require_in_guest!("reserved", range.is_some(), WHAT);
    let range = range.expect("just looked");
    let middle = range.start + 7 * 4096;
    // Of more than a gigabyte and less than two the pool has one.
    let pool = Pool::new(part(middle..range.end).expect("aligned to pages"), Bytes(2 * GIB));
    let tenant = owner(&pool);
    let mut extent = tenant.gigabyte().expect("a gigabyte");
    assert_eq!(place(&extent), middle);
    extent[..4096].fill(9);
    assert!(all_are(&bytes_at(middle, 4096), 9));
    assert!(tenant.chunk().is_err());
    // Memory that the kernel uses is not to be had (CONFIG_STRICT_DEVMEM).
    let refused = part(GIB..2 * GIB).expect_err("it is the kernel's").to_string();
    assert!(refused.contains("memmap="), "{refused}");
}

/// Gives the same gigabyte to everybody.
#[derive(Debug)]
struct TheSameTwice(External, std::sync::Mutex<Option<Gigabyte>>);

// SAFETY: not kept, which is what is tried out: nobody writes to the memory.
unsafe impl Source for TheSameTwice {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn take(&self) -> recoup_sys::Result<Gigabyte> {
        let mut first = self.1.lock().expect("no panic");
        if first.is_none() {
            *first = Some(self.0.take()?);
        }
        Ok(first.clone().expect("just taken"))
    }

    fn put_back(&self, _: Gigabyte) {}
}

/// The kernel has no count for it, and pagemap nothing at all, but there are the mappings.
#[test]
fn an_audit_finds_memory_that_is_there_twice() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), WHAT);
    let source = TheSameTwice(source.expect("just looked"), std::sync::Mutex::default());
    let pool = Pool::new(source, Bytes(2 * GIB));
    let tenant = owner(&pool);
    let first = tenant.gigabyte().expect("a gigabyte");
    assert_clean(&pool);
    let second = tenant.gigabyte().expect("the same one");
    assert_eq!(place(&first), place(&second));
    let starts = [&first, &second].map(|extent| Violation::Shared(extent.page_range().start));
    assert_eq!(pool.audit().expect("maps").violations, starts);
}
