//! An owner as the allocator of collections (crate `allocator-api2`).

#![expect(unsafe_code, reason = "blocks go to collections as raw memory")]

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use super::blocks::{Contents, Footprint};
use super::owner::Owner;

/// For collections of large blocks: a block takes whole pages of 4 KiB up to 1 MiB, and above that whole
/// chunks of 2 MiB, up to 1 GiB. A block longer than that is refused, as is an alignment above 1 GiB; one
/// aligned to more than its length takes as much as its alignment.
///
/// Blocks shrink where they are, also from gigabytes to megabytes, without a copy; only from chunks to
/// pages they move. They grow where they are within their pages or chunks. Zeroed blocks above 1 MiB are not touched where they come fresh
/// from the source.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use recoup::pool::{Bytes, OwnerOptions, Pool, Thp};
///
/// let pool = Pool::new(Thp::private(), Bytes(1 << 30));
/// let owner = pool.owner(OwnerOptions::default())?;
/// let mut numbers: Vec<u64, _> = Vec::with_capacity_in(1 << 20, owner.clone());
/// numbers.extend(0..1 << 20);
/// assert_eq!(owner.used(), Bytes(8 << 20));
/// # Ok::<(), recoup::pool::Error>(())
/// ```
// SAFETY: a block is an extent, which stays where it is and the owner's until it is freed, and keeps the
// pool. Clones of an owner are the same owner. Its address is a multiple of the alignment, as its
// length rounded up to a power of two is one. Layouts between what was asked for and what was given have
// the same footprint.
unsafe impl Allocator for Owner {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.block(layout, Contents::Any).map_err(|_| AllocError)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.block(layout, Contents::Zeroes).map_err(|_| AllocError)
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { self.free_block(start, Footprint::of(layout)) }
    }

    unsafe fn grow(
        &self,
        start: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: promised by the caller.
        unsafe { self.resize_block(start, (old, new), Contents::Any) }.map_err(|_| AllocError)
    }

    unsafe fn grow_zeroed(
        &self,
        start: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: promised by the caller.
        unsafe { self.resize_block(start, (old, new), Contents::Zeroes) }.map_err(|_| AllocError)
    }

    unsafe fn shrink(
        &self,
        start: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: promised by the caller.
        unsafe { self.resize_block(start, (old, new), Contents::Any) }.map_err(|_| AllocError)
    }
}
