//! An owner as the allocator of collections.

#![expect(unsafe_code, reason = "blocks are used as a collection uses them")]

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use recoup::pool::{Owner, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_testkit::numbers::Numbers;

use super::{CHUNK, GIB, MIB, pool_of, resident_around};

/// A block with bytes that tell it from others.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    seed: u8,
}

impl Block {
    fn fill(&mut self) {
        // SAFETY: this block's own.
        unsafe { self.start.write_bytes(self.seed, self.layout.size()) };
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: this block's own, filled when it got this length.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn assert_intact(&self) {
        assert!(self.bytes().iter().all(|&byte| byte == self.seed), "{:?}", self.layout);
    }

    fn free(self, owner: &Owner) {
        self.assert_intact();
        // SAFETY: allocated from this owner with this layout, and used no more.
        unsafe { owner.deallocate(self.start, self.layout) };
    }
}

fn layout(size: u64, alignment: u64) -> Layout {
    let [size, alignment] = [size, alignment].map(|it| usize::try_from(it).expect("64 bits"));
    Layout::from_size_align(size, alignment).expect("a layout")
}

#[test]
fn a_block_is_aligned_as_asked_for_and_no_other_s() {
    let (pool, owner) = pool_of(Thp::private(), Bytes(8 * GIB));
    let sizes = [1, 100, 4096, 4097, 12_288, 300_000, MIB, MIB + 1, CHUNK, CHUNK + 1, 7 * MIB];
    let alignments = [1, 16, 4096, 8192, 65_536, MIB, CHUNK, 8 * MIB, 64 * MIB];
    let mut blocks = std::vec::Vec::new();
    for (seed, (size, alignment)) in
        (1_u8..).zip(sizes.iter().flat_map(|size| alignments.map(|alignment| (*size, alignment))))
    {
        let layout = layout(size, alignment);
        let block = owner.allocate(layout).expect("room");
        assert!(
            block.len() >= layout.size() && block.cast::<u8>().addr().get() % layout.align() == 0
        );
        let mut block = Block { start: block.cast(), layout, seed };
        block.fill();
        blocks.push(block);
    }
    blocks.into_iter().rev().for_each(|block| block.free(&owner));
    assert_eq!(owner.used(), Bytes(0));
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    // All of a gigabyte, at a multiple of it; but no more.
    let block = owner.allocate(layout(1, GIB)).expect("room");
    assert_eq!(block.cast::<u8>().addr().get() as u64 % GIB, 0);
    // SAFETY: allocated just now.
    unsafe { owner.deallocate(block.cast(), layout(1, GIB)) };
    assert!(owner.allocate(layout(GIB + 1, 1)).is_err());
    assert!(owner.allocate(layout(1, 2 * GIB)).is_err());
}

#[test]
fn a_block_of_no_bytes_takes_none() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let empty = layout(0, 4096);
    let block = owner.allocate(empty).expect("nothing");
    assert!(block.is_empty() && block.cast::<u8>().addr().get() % 4096 == 0);
    assert_eq!(owner.used(), Bytes(0));
    // SAFETY: allocated just now, and grown once.
    let grown = unsafe { owner.grow(block.cast(), empty, layout(5000, 4096)) }.expect("room");
    assert_eq!((grown.len(), owner.used()), (8192, Bytes(CHUNK)));
    // SAFETY: as above.
    let shrunk = unsafe { owner.shrink(grown.cast(), layout(5000, 4096), empty) }.expect("no need");
    assert_eq!((shrunk.len(), owner.used()), (0, Bytes(0)));
    // SAFETY: as above.
    unsafe { owner.deallocate(shrunk.cast(), empty) };
}

#[test]
fn zeroed_blocks_are_zero_though_the_owner_has_used_the_memory() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    for size in [4096, 100_000, MIB, CHUNK, 5 * MIB] {
        let layout = layout(size, 8);
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let block = owner.allocate_zeroed(layout).expect("room");
            let mut block = Block { start: block.cast(), layout, seed: 0 };
            block.assert_intact();
            block.seed = 0xA5;
            block.fill();
            places.insert(block.start);
            block.free(&owner);
        }
        assert_eq!(places.len(), 1, "memory of its own came back");
    }
}

#[test]
fn a_zeroed_block_from_the_source_is_not_touched() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(2 * GIB));
    let layout = layout(GIB, 8);
    let block = owner.allocate_zeroed(layout).expect("room").cast::<u8>();
    assert_eq!(resident_around(block.as_ptr()), 0);
    // SAFETY: allocated just now.
    unsafe { owner.deallocate(block, layout) };
}

#[test]
fn blocks_shrink_in_place_and_what_is_cut_off_is_free() {
    let (pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    for (from, to, left) in [(GIB, 3 * CHUNK, 3 * CHUNK), (MIB, 8192, CHUNK), (5000, 4097, CHUNK)] {
        let mut block = Block {
            start: owner.allocate(layout(from, 8)).expect("room").cast(),
            layout: layout(from, 8),
            seed: 0x5A,
        };
        block.layout = layout(to, 8);
        block.fill();
        // SAFETY: allocated just now with the first layout.
        let shrunk = unsafe { owner.shrink(block.start, layout(from, 8), layout(to, 8)) };
        assert_eq!(shrunk.expect("in place").cast(), block.start);
        assert_eq!(owner.used(), Bytes(left));
        // What was cut off is somebody else's now.
        let other = owner.allocate(layout(from / 2, 8)).expect("room").cast();
        let mut other = Block { start: other, layout: layout(from / 2, 8), seed: 1 };
        other.fill();
        block.free(&owner);
        other.free(&owner);
        assert_eq!(owner.used(), Bytes(0));
    }
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn blocks_grow_and_keep_their_bytes() {
    let (pool, owner) = pool_of(Thp::private(), Bytes(2 * GIB));
    let mut random = Numbers::new(7);
    let mut block: Vec<u8, _> = Vec::new_in(&owner);
    let mut size = 0;
    while size < 64 << 20 {
        size += usize::try_from(random.below(1 + size as u64 / 2) + 1).expect("64 bits");
        let before = block.len();
        let mark = u8::try_from(size % 251).expect("a byte");
        block.resize(size, mark);
        assert!(block[before..].iter().all(|&byte| byte == mark));
        if before > 0 {
            assert_eq!(usize::from(block[before - 1]), before % 251);
        }
        block.reserve_exact(1);
    }
    drop(block);
    assert_eq!(owner.used(), Bytes(0));
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn what_a_block_grows_by_is_zeroed_on_demand() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    for [from, to] in [[3000, 4000], [3000, 3 * CHUNK], [2 * CHUNK + 1, 3 * CHUNK - 1]] {
        // Memory of its own, that was used.
        let whole = [from, to].map(|size| layout(size, 8));
        for layout in whole {
            let mut used =
                Block { start: owner.allocate(layout).expect("room").cast(), layout, seed: 1 };
            used.fill();
            used.free(&owner);
        }
        let [from, to] = whole;
        let mut block =
            Block { start: owner.allocate(from).expect("room").cast(), layout: from, seed: 9 };
        block.fill();
        // SAFETY: allocated just now with this layout.
        let grown = unsafe { owner.grow_zeroed(block.start, from, to) }.expect("room");
        block = Block { start: grown.cast(), layout: to, seed: 9 };
        let (kept, new) = block.bytes().split_at(from.size());
        assert!(kept.iter().all(|&byte| byte == 9) && new.iter().all(|&byte| byte == 0));
        block.fill();
        block.free(&owner);
    }
}

#[test]
fn a_map_of_many_threads_and_a_trim_meanwhile() {
    let (pool, owner) = pool_of(Thp::private(), Bytes(4 * GIB));
    std::thread::scope(|scope| {
        for thread in 1..4_u64 {
            let owner = owner.clone();
            scope.spawn(move || {
                for round in 0..5 {
                    let mut map = hashbrown::HashMap::new_in(owner.clone());
                    map.extend((0..200_000).map(|key| (key, key * thread + round)));
                    assert!((0..200_000).all(|key| map[&key] == key * thread + round));
                }
            });
        }
        for _ in 0..20 {
            pool.trim();
            std::thread::yield_now();
        }
    });
    assert_eq!(owner.used(), Bytes(0));
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn a_leaked_block_keeps_its_pool() {
    let (pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let leaked: &'static mut [u8; 4096] = Box::leak(Box::new_in([3; 4096], owner));
    drop(pool);
    assert!(leaked.iter().all(|&byte| byte == 3));
}

#[test]
fn a_quota_refuses_a_block_and_the_collection_goes_on() {
    let pool = recoup::pool::Pool::new(Thp::private(), Bytes(GIB));
    let quota = recoup::pool::OwnerOptions::default().quota(Bytes(Chunks(4).bytes()));
    let owner = pool.owner(quota).expect("an owner");
    let mut list: Vec<u8, _> = Vec::new_in(&owner);
    list.try_reserve_exact(8 << 20).expect("all of it");
    list.push(1);
    assert!(list.try_reserve_exact(9 << 20).is_err());
    assert_eq!(list[..], [1]);
}
