//! Positions and amounts of a pool's memory, as different types with only the meaningful operators.
//!
//! Positions count from the start of the pool's address range. All conversions are shifts by
//! constants that are asserted here; none of them can panic.

use core::fmt;
use core::ops::{Add, AddAssign, Range, Sub, SubAssign};

/// Binary logarithm of the base page size: 4 KiB.
pub const PAGE_SHIFT: u32 = 12;
/// Binary logarithm of the base pages in a chunk.
pub const CHUNK_ORDER: u8 = 9;
/// Binary logarithm of the base pages in a superchunk.
pub const SUPERCHUNK_ORDER: u8 = 18;
/// Base pages in a chunk.
pub const PAGES_PER_CHUNK: usize = 1 << CHUNK_ORDER;
/// Chunks in a superchunk.
pub const CHUNKS_PER_SUPERCHUNK: usize = 1 << (SUPERCHUNK_ORDER - CHUNK_ORDER);
/// Bytes in a chunk.
pub const CHUNK_BYTES: u64 = 1 << (PAGE_SHIFT + CHUNK_ORDER as u32);
/// Bytes in a superchunk.
pub const SUPERCHUNK_BYTES: u64 = 1 << (PAGE_SHIFT + SUPERCHUNK_ORDER as u32);

const _: () = assert!(CHUNK_BYTES == 2 << 20 && SUPERCHUNK_BYTES == 1 << 30);
const _: () = assert!(PAGES_PER_CHUNK == 512 && CHUNKS_PER_SUPERCHUNK == 512);

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// What is left after taking away `other`, at least nothing.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The sum, at most what a `u64` holds.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                self.0 -= other.0;
            }
        }
    };
}

amount! {
    /// An amount of memory in base pages of 4 KiB.
    Pages
}
amount! {
    /// An amount of memory in chunks of 2 MiB.
    Chunks
}

impl Chunks {
    /// The chunks of one superchunk.
    pub const SUPERCHUNK: Self = Self(CHUNKS_PER_SUPERCHUNK as u64);

    /// The same amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(CHUNK_BYTES)
    }
}

/// A chunk of the pool: 2 MiB at a multiple of 2 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIdx(pub u64);

impl ChunkIdx {
    /// The superchunk that the chunk is part of.
    #[must_use]
    pub const fn superchunk(self) -> SuperchunkIdx {
        SuperchunkIdx(self.0 >> (SUPERCHUNK_ORDER - CHUNK_ORDER))
    }

    /// The chunk's place in its superchunk, below [`CHUNKS_PER_SUPERCHUNK`].
    #[must_use]
    pub const fn slot(self) -> usize {
        // Masked to nine bits: the cast cannot lose any.
        #[expect(clippy::cast_possible_truncation, reason = "masked to nine bits")]
        {
            self.0 as usize & (CHUNKS_PER_SUPERCHUNK - 1)
        }
    }

    /// The distance in bytes from the start of the pool.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.0.saturating_mul(CHUNK_BYTES)
    }
}

impl Add<Chunks> for ChunkIdx {
    type Output = Self;
    fn add(self, amount: Chunks) -> Self {
        Self(self.0 + amount.0)
    }
}

impl fmt::Display for ChunkIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.superchunk().0, self.slot())
    }
}

/// A superchunk of the pool: 1 GiB at a multiple of 1 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SuperchunkIdx(pub u64);

impl SuperchunkIdx {
    /// The superchunk's first chunk.
    #[must_use]
    pub const fn first_chunk(self) -> ChunkIdx {
        ChunkIdx(self.0 << (SUPERCHUNK_ORDER - CHUNK_ORDER))
    }

    /// The chunk at a place in the superchunk, below [`CHUNKS_PER_SUPERCHUNK`].
    #[must_use]
    pub(crate) const fn chunk(self, slot: usize) -> ChunkIdx {
        ChunkIdx(self.first_chunk().0 + slot as u64)
    }
}

impl fmt::Display for SuperchunkIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The place of a base page in its chunk, below [`PAGES_PER_CHUNK`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageInChunk(u16);

impl PageInChunk {
    /// The page at this place, or `None` past the chunk's end.
    #[must_use]
    pub fn new(place: usize) -> Option<Self> {
        let place = u16::try_from(place).ok()?;
        (usize::from(place) < PAGES_PER_CHUNK).then_some(Self(place))
    }

    /// The place as a number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// At least one chunk, and all of one superchunk: what can be handed out in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRun {
    start: ChunkIdx,
    length: Chunks,
}

impl ChunkRun {
    /// The run of `length` chunks from `start`, or `None` if that is nothing or leaves the
    /// superchunk.
    #[must_use]
    pub fn new(start: ChunkIdx, length: Chunks) -> Option<Self> {
        let room = Chunks::SUPERCHUNK.0 - start.slot() as u64;
        (1..=room).contains(&length.0).then_some(Self { start, length })
    }

    /// One chunk.
    #[must_use]
    pub const fn single(chunk: ChunkIdx) -> Self {
        Self { start: chunk, length: Chunks(1) }
    }

    /// The run at these places of a superchunk, which the caller knows to be no others.
    pub(crate) fn at(superchunk: SuperchunkIdx, slots: &Range<usize>) -> Self {
        Self { start: superchunk.chunk(slots.start), length: Chunks(slots.len() as u64) }
    }

    /// The first chunk.
    #[must_use]
    pub const fn start(self) -> ChunkIdx {
        self.start
    }

    /// How many chunks the run has: from 1 to [`CHUNKS_PER_SUPERCHUNK`].
    #[must_use]
    pub const fn length(self) -> Chunks {
        self.length
    }

    /// The superchunk that all of the run is in.
    #[must_use]
    pub const fn superchunk(self) -> SuperchunkIdx {
        self.start.superchunk()
    }

    /// The places of the chunks in their superchunk.
    #[must_use]
    pub const fn slots(self) -> Range<usize> {
        let start = self.start.slot();
        // At most 512, by construction.
        #[expect(clippy::cast_possible_truncation, reason = "at most 512, by construction")]
        {
            start..start + self.length.0 as usize
        }
    }

    /// The chunks, in order.
    pub fn chunks(self) -> impl Iterator<Item = ChunkIdx> {
        (self.start.0..self.start.0 + self.length.0).map(ChunkIdx)
    }
}

impl fmt::Display for ChunkRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.length.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_in_its_superchunk() {
        let last = SuperchunkIdx(3).chunk(CHUNKS_PER_SUPERCHUNK - 1);
        assert_eq!(ChunkRun::new(last, Chunks(1)), Some(ChunkRun::single(last)));
        assert_eq!(ChunkRun::new(last, Chunks(2)), None);
        assert_eq!(ChunkRun::new(last, Chunks(0)), None);
        assert_eq!(ChunkRun::new(last, Chunks(u64::MAX)), None);
        let whole = ChunkRun::new(SuperchunkIdx(3).first_chunk(), Chunks::SUPERCHUNK).unwrap();
        assert_eq!(whole.slots(), 0..CHUNKS_PER_SUPERCHUNK);
        assert_eq!(whole.chunks().last(), Some(last));
        assert!(whole.chunks().all(|chunk| chunk.superchunk() == SuperchunkIdx(3)));
    }

    #[test]
    fn sizes_are_those_of_the_kernel_s_side() {
        use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK, PMD_TABLE_SPAN};
        assert_eq!((CHUNK_BYTES, PAGES_PER_CHUNK), (BLOCK.0, PAGES_PER_BLOCK));
        assert_eq!(
            (SUPERCHUNK_BYTES, PAGE_SHIFT),
            (PMD_TABLE_SPAN.0, recoup_sys::units::PAGE_SHIFT)
        );
    }

    #[test]
    fn a_page_is_below_512() {
        assert_eq!(PageInChunk::new(PAGES_PER_CHUNK - 1).map(PageInChunk::get), Some(511));
        assert_eq!(PageInChunk::new(PAGES_PER_CHUNK), None);
        assert_eq!(PageInChunk::new(usize::MAX), None);
    }
}
