//! Gives the most part of some huge pages back, so that the cgroup's charge falls at once.
//!
//!     cargo run --release -p recoup --example discard

use recoup::discard::{Discarder, Result};
use recoup::units::{BLOCK, PAGES_PER_BLOCK};
use recoup::{Bytes, OwnAdvice, Pages, Region, SplitPolicy, headroom};

fn main() -> Result<()> {
    let count = 64;
    let per_block = PAGES_PER_BLOCK as u64;
    let mut memory = Region::new(Bytes(count * BLOCK.0))?;
    let all = memory.pages().length();
    memory.advise(Pages(0), all, OwnAdvice::HugePages)?;
    memory.touch(Pages(0), all);

    let discarder = Discarder::new();
    // Holes may wait for the rest of their huge page, up to 16 MiB in all.
    let policy = SplitPolicy::Bounded(Bytes(16 << 20));
    for block in 0..count {
        let released = memory.release(Pages(block * per_block + 1), Pages(per_block - 1));
        discarder.discard(released, policy)?;
    }
    println!("{} MiB wait for a split", discarder.waiting().0 >> 20);
    // An owner's loop that has time:
    discarder.split_waiting(Bytes::ZERO)?;
    println!("{} MiB after the owner's own loop", discarder.waiting().0 >> 20);
    println!("there is room for {} MiB more", headroom(Bytes::ZERO)?.bytes.0 >> 20);
    Ok(())
}
