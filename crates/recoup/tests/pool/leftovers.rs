//! What somebody leaves behind: bytes for the next owner, memory that waits for nobody, chunks without
//! memory behind them.

use recoup::pool::{HugeTlb, Pool, Thp};
use recoup_sys::Bytes;
use recoup_sys::units::BLOCK;
use recoup_testkit::{HugePages, require};

use crate::common::{CHUNK, GIB, all_are, file_takes, inode_at, owner};

/// A gigabyte that goes back to a memfd loses its memory, and so its bytes.
#[test]
fn a_gigabyte_that_was_shared_comes_back_empty() {
    comes_back_empty(&Pool::new(Thp::shared().expect("a memfd"), Bytes(GIB)));
}

#[test]
fn a_gigabyte_of_shared_huge_pages_comes_back_empty() {
    let guard = HugePages::reserve(&[(BLOCK, 16)]);
    require!(guard.is_ok(), "16 huge pages of 2 MiB");
    let source = HugeTlb::two_mib().expect("huge pages").shared().expect("a memfd");
    comes_back_empty(&Pool::new(source, Bytes(GIB)));
}

fn comes_back_empty(pool: &Pool) {
    let first = owner(pool);
    let mut extents: Vec<_> = (0..8).map(|_| first.chunk().expect("a chunk")).collect();
    extents.iter_mut().for_each(|extent| extent.fill(7));
    let file = inode_at(&extents[0]);
    assert_eq!(file_takes(file), 8 * CHUNK);
    drop(extents);
    // Gives back what is unused as a whole, without a look at its chunks.
    assert_eq!(pool.compact().returned, 1);
    assert_eq!(file_takes(file), 0);
    let second = owner(pool);
    let extents: Vec<_> = (0..8).map(|_| second.chunk().expect("a chunk")).collect();
    assert!(extents.iter().all(|extent| all_are(extent, 0)), "what the first owner wrote");
}
