use recoup::pool::{OwnerOptions, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;

use super::{GIB, pool_of, resident_around};

#[test]
fn zeroed_chunks_are_zero_whoever_had_them() {
    let (pool, first) = pool_of(Thp::private(), Bytes(GIB));
    let second = pool.owner(OwnerOptions::default()).expect("an owner");
    for length in [4, 9, 64].map(Chunks) {
        // Some of it was never used, some by this owner, some by another.
        let mut used = first.chunks(length).expect("room");
        used.fill(1);
        let place = used.as_ptr();
        drop(used);
        let mut extent = second.zeroed_chunks(Chunks(length.0.div_ceil(2))).expect("room");
        assert!(extent.iter().all(|&byte| byte == 0));
        extent.fill(2);
        drop(extent);
        second.chunks(length).expect("room").fill(2);
        let extent = second.zeroed_chunks(length).expect("room");
        assert_eq!((extent.as_ptr(), extent.len() as u64), (place, length.bytes()));
        assert!(extent.iter().all(|&byte| byte == 0));
        drop(extent);
        drop(first.zeroed_chunks(length).expect("room"));
        pool.trim();
    }
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

#[test]
fn a_zeroed_chunk_is_zero_though_it_was_just_freed() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let mut chunk = owner.chunk().expect("room");
    chunk.fill(1);
    let place = chunk.as_ptr();
    drop(chunk);
    let chunk = owner.zeroed_chunks(Chunks(1)).expect("room");
    assert!(chunk.as_ptr() == place && chunk.iter().all(|&byte| byte == 0));
}

#[test]
fn what_comes_from_the_source_stays_untouched() {
    let (_pool, owner) = pool_of(Thp::private(), Bytes(GIB));
    let extent = owner.zeroed_chunks(Chunks(512)).expect("room");
    assert_eq!(resident_around(extent.as_ptr().as_ptr()), 0);
}
