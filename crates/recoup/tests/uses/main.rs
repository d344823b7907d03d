//! What a pool is used for: collections, memory that is there before it is touched, virtual machines.
//! What is in memory is read from `pagemap` and smaps.

#[cfg(feature = "allocator-api2")]
mod allocator;
mod inherited;
mod prefault;
#[cfg(feature = "vm")]
mod vm;
mod zeroed;

use recoup::pool::{HugeTlb, Owner, OwnerOptions, Pool, Source, Thp};
use recoup_sys::Bytes;
use recoup_testkit::kernel::{own_pid, smaps_bytes_in};

const MIB: u64 = 1 << 20;
#[cfg(any(feature = "allocator-api2", feature = "vm"))]
const CHUNK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

fn pool_of(source: impl Source + 'static, limit: Bytes) -> (Pool, Owner) {
    let pool = Pool::new(source, limit);
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    (pool, owner)
}

/// Memory of a memfd.
#[expect(unsafe_code, reason = "a promise about the file")]
fn memfd() -> Thp {
    // SAFETY: who looks at the file here changes only what is his.
    unsafe { Thp::shared() }.expect("a memfd")
}

/// The same huge pages from a memfd.
#[expect(unsafe_code, reason = "a promise about the file")]
fn shared(pages: HugeTlb) -> HugeTlb {
    // SAFETY: as above.
    unsafe { pages.shared() }.expect("a memfd")
}

/// What is in memory of the whole gigabyte around an address.
fn resident_around(start: *const u8) -> u64 {
    let start = start.addr() as u64 / GIB * GIB;
    smaps_bytes_in(own_pid(), start..start + GIB, "Rss")
}
