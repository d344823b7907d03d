//! A range of which page tables go back with the memory, in whatever pieces that is given back.
//!
//!     cargo run --release -p recoup --example owned

use std::sync::Arc;

use recoup::discard::{Discarder, HugePages, OwnedRange, Result};
use recoup::units::{BLOCK, PAGE_BYTES};
use recoup::{Bytes, PageRange, Pages, SplitPolicy};

fn main() -> Result<()> {
    let discarder = Arc::new(Discarder::new());
    let length = Bytes(512 * BLOCK.0);
    let mut range = OwnedRange::map(length, HugePages::Unwanted, discarder)?;
    let all = range.reserved().pages();
    println!("page tables at first: {}", page_tables());

    // Before the first touch.
    range.reuse(all);
    let mut contents = range.contents().expect("it was mapped here");
    contents.touch(Pages(0), all.length());
    println!("{} MiB in use: {}", length.0 >> 20, page_tables());

    let (mut blocks, policy) = (0, SplitPolicy::Bounded(Bytes(16 << 20)));
    for page in 0..all.length().0 {
        let page = PageRange::starting_at(all.start + Pages(page), Pages(1));
        blocks += range.discard(page, policy)?.blocks;
    }
    println!("given back page by page: {}; {blocks} tables went", page_tables());

    // Taken once more, it is there as before.
    range.reuse(PageRange::starting_at(all.start, Pages(1)));
    let mut byte = [1];
    let mut contents = range.contents().expect("it was mapped here");
    contents.read(PAGE_BYTES - 1, &mut byte);
    assert_eq!(byte, [0]);
    contents.write(0, &[42]);
    Ok(())
}

/// As the kernel says (`VmPTE`).
fn page_tables() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    line.map_or_else(|| "unknown".to_owned(), |kib| kib.trim().to_owned())
}
