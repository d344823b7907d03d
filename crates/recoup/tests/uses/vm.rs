//! A guest's memory, seen through its addresses and through the file behind it.

use std::os::fd::AsRawFd;

use recoup::pool::{Error, GuestRegion, HugeTlb, OwnerOptions, Pool, Source, Thp, Violation};
use recoup_core::Chunks;
use recoup_sys::Bytes as ByteCount;
use recoup_testkit::{HostSetting, require};
use vm_memory::MemoryRegionAddress;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{CHUNK, GIB, MIB, memfd, pool_of, shared};

/// What another process would map of a region's file.
struct Mapped {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapped {
    #[expect(unsafe_code, reason = "the file is mapped without the pool")]
    fn new(file: &FileOffset, length: u64) -> Self {
        let length = usize::try_from(length).expect("64 bits");
        let offset = i64::try_from(file.start()).expect("a file");
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.file().as_raw_fd());
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping, where nothing is.
        let start = unsafe { libc::mmap(none, length, protection, libc::MAP_SHARED, fd, offset) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start, length }
    }

    #[expect(unsafe_code, reason = "the file is mapped without the pool")]
    fn at(&self, offset: u64) -> u64 {
        let offset = usize::try_from(offset).expect("64 bits");
        assert!(offset + 8 <= self.length);
        // SAFETY: inside of the mapping.
        unsafe { self.start.wrapping_byte_add(offset).cast::<u64>().read_volatile() }
    }
}

impl Drop for Mapped {
    #[expect(unsafe_code, reason = "the file is mapped without the pool")]
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// Writes through guest addresses, and reads what is in the file.
fn check_shared(source: impl Source + 'static) {
    let (pool, owner) = pool_of(source, ByteCount(GIB));
    let before = owner.chunks(Chunks(3)).expect("room");
    let memory = owner.guest_memory(ByteCount(8 * MIB - 1)).expect("room");
    drop(before);
    assert_eq!(owner.used(), ByteCount(8 * MIB));
    for at in [0, 4096, 3 * CHUNK + 8] {
        memory.write_obj(at ^ 0x5EED, GuestAddress(at)).expect("memory");
    }
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    let region = memory.iter().next().expect("a region");
    let file = region.file_offset().expect("a file");
    let refused = file.file().set_len(0).expect_err("sealed");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "others' memory would be cut off");
    let mapped = Mapped::new(file, region.len());
    for at in [0, 4096, 3 * CHUNK + 8] {
        assert_eq!(mapped.at(at), at ^ 0x5EED);
    }
    let violations = pool.audit().expect("pagemap").violations;
    let shared = violations.iter().all(|it| matches!(it, Violation::Shared(_)));
    assert!(shared && violations.len() == 2, "two chunks are mapped twice: {violations:?}");
    drop(mapped);
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    drop(memory);
    assert_eq!(owner.used(), ByteCount(0));
}

#[test]
fn a_guest_s_memory_is_what_its_file_holds() {
    check_shared(memfd());
}

#[test]
fn a_guest_s_memory_can_be_hugetlb() {
    require!(recoup_testkit::kernel::is_root(), "root, to set huge pages apart");
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let before: u64 = std::fs::read_to_string(pool).unwrap_or_default().trim().parse().unwrap_or(0);
    let _setting = HostSetting::set(pool, &(before + 16).to_string());
    check_shared(shared(HugeTlb::two_mib().expect("pages")));
    let (_pool, owner) = pool_of(HugeTlb::two_mib().expect("pages"), ByteCount(GIB));
    let memory = owner.guest_memory(ByteCount(CHUNK)).expect("room");
    let region = memory.iter().next().expect("a region");
    assert!(region.file_offset().is_none() && region.is_hugetlbfs() == Some(true));
}

#[test]
fn a_large_guest_has_a_hole_below_4_gib() {
    let (_pool, owner) = pool_of(Thp::private(), ByteCount(6 * GIB));
    let memory = owner.guest_memory(ByteCount(4 * GIB + 3 * CHUNK)).expect("room");
    let regions: Vec<_> = memory.iter().map(|it| (it.start_addr().0, it.len())).collect();
    let starts = [0, GIB, 2 * GIB, 4 * GIB];
    let whole = starts.map(|start| (start, GIB));
    assert_eq!(regions, [&whole[..], &[(5 * GIB, 3 * CHUNK)]].concat());
    // Across two regions.
    let text = b"written over the edge of a gigabyte";
    memory.write_slice(text, GuestAddress(GIB - 7)).expect("memory");
    let mut read = [0; 35];
    memory.read_slice(&mut read, GuestAddress(GIB - 7)).expect("memory");
    assert_eq!(&read, text);
    assert!(memory.write_obj(1_u8, GuestAddress(3 * GIB)).is_err(), "no memory there");
    assert!(memory.write_obj(1_u8, GuestAddress(5 * GIB + 3 * CHUNK)).is_err());
    assert_eq!(memory.last_addr(), GuestAddress(5 * GIB + 3 * CHUNK - 1));
}

#[test]
fn a_guest_finds_zeroes_and_leaves_its_bytes_to_nobody() {
    let (pool, tenant) = pool_of(Thp::private(), ByteCount(GIB));
    for _ in 0..2 {
        let memory = tenant.guest_memory(ByteCount(4 * CHUNK)).expect("room");
        let mut all = vec![1; 8 << 20];
        memory.read_slice(&mut all, GuestAddress(0)).expect("memory");
        assert!(all.iter().all(|&byte| byte == 0));
        all.fill(0xEE);
        memory.write_slice(&all, GuestAddress(0)).expect("memory");
    }
    let other = pool.owner(OwnerOptions::default()).expect("an owner");
    assert!(other.chunks(Chunks(4)).expect("room").iter().all(|&byte| byte == 0));
}

#[test]
fn a_region_has_its_extent_s_bytes_and_bounds() {
    let (_pool, owner) = pool_of(Thp::private(), ByteCount(GIB));
    let mut extent = owner.chunk().expect("room");
    extent[5] = 55;
    let place = extent.as_ptr().as_ptr();
    let region = GuestRegion::new(GuestAddress(0x1000), extent).expect("low");
    let at = MemoryRegionAddress;
    assert_eq!(region.read_obj::<u8>(at(5)).expect("memory"), 55);
    assert_eq!(region.get_host_address(at(5)).expect("memory"), place.wrapping_add(5));
    assert_eq!(region.as_volatile_slice().expect("memory").len(), 2 << 20);
    assert!(region.get_slice(at(CHUNK - 1), 2).is_err());
    assert!(region.get_slice(at(u64::MAX), 1).is_err());
    assert!(region.get_host_address(at(CHUNK)).is_err());
    region.write_obj(66_u8, at(5)).expect("memory");
    drop(region);
    let extent = owner.chunk().expect("room");
    assert_eq!((extent.as_ptr().as_ptr(), extent[5]), (place, 66), "freed, and the owner's");
    assert!(GuestRegion::new(GuestAddress(u64::MAX - 5), extent).is_err());
    assert!(matches!(owner.guest_memory(ByteCount(0)), Err(Error::Length { .. })));
    let quota = Pool::new(Thp::private(), ByteCount(GIB))
        .owner(OwnerOptions::default().quota(ByteCount(CHUNK)))
        .expect("an owner");
    assert!(matches!(quota.guest_memory(ByteCount(CHUNK + 1)), Err(Error::Quota(_))));
    assert_eq!(quota.used(), ByteCount(0));
}
