//! What the tests share.

use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Pages};
use recoup_testkit::kernel;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const PER_BLOCK: u64 = PAGES_PER_BLOCK as u64;

/// What a machine with fragmented memory lacks.
pub(crate) const HUGE_PAGES: &str = "memory that is not too fragmented for huge pages";

/// Memory made of `blocks` huge pages, every page of which holds its number; nothing where the host
/// has too few left.
pub(crate) fn huge(blocks: u64) -> Option<Region> {
    let mut region = Region::new(Bytes(blocks * BLOCK.0)).expect("memory");
    let all = region.pages().length();
    region.advise(Pages(0), all, OwnAdvice::HugePages).expect("huge pages are allowed");
    fill(&mut region);
    (smaps(&region, "AnonHugePages") == blocks * BLOCK.0).then_some(region)
}

/// Writes its number into every page.
pub(crate) fn fill(region: &mut Region) {
    (0..region.pages().length().0).for_each(|page| mark(region, page));
}

/// Writes its number into a page.
pub(crate) fn mark(region: &mut Region, page: u64) {
    region.write(offset(page), &(page + 1).to_le_bytes());
}

/// What a page holds: its number plus one, or zero.
pub(crate) fn marked(region: &Region, page: u64) -> u64 {
    let mut bytes = [0; 8];
    region.read(offset(page), &mut bytes);
    u64::from_le_bytes(bytes)
}

fn offset(page: u64) -> usize {
    usize::try_from(Pages(page).bytes().0).expect("an offset")
}

/// A field of smaps for a region that has its mapping to itself.
pub(crate) fn smaps(region: &Region, field: &str) -> u64 {
    let pages = region.pages();
    kernel::smaps_bytes_in(kernel::own_pid(), pages.start.address()..pages.end.address(), field)
}
