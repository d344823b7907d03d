//! A virtual machine's memory from a pool (crate `vm-memory`).

#![expect(unsafe_code, reason = "a guest's memory is addressed here")]

use recoup_core::Chunks;
use recoup_core::units::{CHUNK_BYTES, PAGE_SHIFT, SUPERCHUNK_BYTES};
use recoup_sys::Bytes;
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result as GuestResult;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use super::error::{Error, Result};
use super::extent::{Extent, Place};
use super::owner::Owner;
use super::source::Gigabyte;

/// All memory of a guest: its regions, by address. A clone is the same memory.
pub type GuestMemory = GuestRegionCollection<GuestRegion>;

/// A part of a guest's memory, which is an extent's: the owner's, and nobody else's in this process, as long
/// as this exists. Changes are not tracked (`Bitmap` is `()`).
#[derive(Debug)]
pub struct GuestRegion {
    start: GuestAddress,
    extent: Extent,
    file: Option<FileOffset>,
}

/// Where x86 has no memory but devices: the last gigabyte below 4 GiB.
const HOLE: std::ops::Range<u64> = 3 << 30..4 << 30;

impl Owner {
    /// Memory for a guest, zeroed, from guest address 0 on; what does not fit below 3 GiB goes on at 4 GiB,
    /// as on x86. In chunks, rounded up, and in regions of 1 GiB, of which KVM takes any number, but a vhost-user
    /// back end without configurable memory slots only eight.
    ///
    /// The file of a shared source is all of the pool's, and mapping it is what nobody here can prevent: a
    /// back end that has it can reach every guest of this pool, and has to end before its guest's
    /// memory is dropped. That it does was promised when the source was [made](super::Thp::shared). Where that is not to be, each guest gets a pool of its own.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted; or no bytes were asked for.
    ///
    /// ```
    /// use recoup::pool::{self, OwnerOptions, Pool, Thp};
    /// use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
    ///
    /// // SAFETY: nobody here writes to the file.
    /// let source = unsafe { Thp::shared() }?;
    /// let pool = Pool::new(source, pool::Bytes(1 << 30));
    /// let tenant = pool.owner(OwnerOptions::default())?;
    /// let memory = tenant.guest_memory(pool::Bytes(64 << 20))?;
    /// memory.write_obj(0xC0DE_u32, GuestAddress(0x7C00))?;
    /// let region = memory.iter().next().expect("one");
    /// assert!(region.file_offset().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guest_memory(&self, size: Bytes) -> Result<GuestMemory> {
        let mut left = Chunks(size.0.div_ceil(CHUNK_BYTES));
        let mut at = 0;
        let mut regions = Vec::new();
        while left > Chunks::ZERO {
            let length = left.min(Chunks::SUPERCHUNK);
            let extent = self.zeroed_chunks(length)?;
            regions.push(GuestRegion::placed(GuestAddress(at), extent));
            left -= length;
            at += SUPERCHUNK_BYTES;
            if HOLE.contains(&at) {
                at = HOLE.end;
            }
        }
        // Sorted and apart: refused is only nothing.
        GuestMemory::from_regions(regions).map_err(|_| Error::chunks(Chunks::ZERO))
    }
}

impl GuestRegion {
    /// An extent as a guest's memory from this address on, with what it holds.
    ///
    /// # Errors
    /// It would reach past the last guest address.
    pub fn new(start: GuestAddress, extent: Extent) -> GuestResult<Self> {
        match start.checked_add(extent.len() as u64) {
            Some(_) => Ok(Self::placed(start, extent)),
            None => Err(GuestMemoryError::GuestAddressOverflow),
        }
    }

    fn placed(start: GuestAddress, extent: Extent) -> Self {
        let file = file_of(&extent);
        Self { start, extent, file }
    }

    /// Where `length` bytes from here on are.
    fn part(&self, from: MemoryRegionAddress, length: usize) -> GuestResult<*mut u8> {
        let offset = usize::try_from(from.raw_value()).ok();
        let inside =
            |offset: &usize| offset.checked_add(length).is_some_and(|end| end <= self.extent.len());
        let offset = offset.filter(inside).ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.extent.as_ptr().as_ptr().wrapping_add(offset))
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.extent.len() as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> GuestResult<*mut u8> {
        self.part(address, 1)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestResult<VolatileSlice<'_, BS<'_, ()>>> {
        let start = self.part(offset, count)?;
        // SAFETY: `part` checked that the bytes are the extent's, which stays as long as the slice
        // borrows this. Nobody makes a reference to them: the extent is dereferenced nowhere here,
        // and nobody else has it.
        Ok(unsafe { VolatileSlice::with_bitmap(start, count, (), None) })
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        let (holder, _) = self.extent.place();
        Some(holder.zone().kind().page.0 >= CHUNK_BYTES)
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

/// The file that an extent is a part of, and where it starts there; none for private memory.
fn file_of(extent: &Extent) -> Option<FileOffset> {
    let (holder, place) = extent.place();
    let (chunk, inside) = match place {
        Place::Chunks(run) => (run.start(), 0),
        Place::Pages(at) => (at.chunk, (at.first.get() as u64) << PAGE_SHIFT),
    };
    match holder.zone().gigabyte(chunk.superchunk())? {
        Gigabyte::File { file, offset, .. } => {
            let start = offset.0 + chunk.slot() as u64 * CHUNK_BYTES + inside;
            Some(FileOffset::from_arc(file, start))
        }
        Gigabyte::Private | Gigabyte::HugeTlb(_) => None,
    }
}
