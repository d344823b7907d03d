//! Large blocks as programs get them today.

#![expect(unsafe_code, reason = "foreign allocators and mmap(2) are called here")]

use std::alloc::{GlobalAlloc, Layout};

use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::{Bytes, Pages};

/// Where a block is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// mmap(2), base pages.
    BasePages,
    /// mmap(2), transparent huge pages.
    HugePages,
    /// jemalloc.
    Jemalloc,
    /// mimalloc.
    Mimalloc,
}

pub(super) struct Other {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// How many times fewer rounds it gets, as it takes so much longer.
    pub(super) slower: usize,
}

pub(super) const ALL: [Other; 4] = [
    Other { name: "mmap(2) in base pages", kind: Kind::BasePages, slower: 100 },
    Other { name: "mmap(2) in huge pages", kind: Kind::HugePages, slower: 100 },
    Other { name: "jemalloc", kind: Kind::Jemalloc, slower: 10 },
    Other { name: "mimalloc", kind: Kind::Mimalloc, slower: 10 },
];

/// A block of memory, freed when dropped.
pub(super) enum Block {
    Mapped(Region),
    Allocated(&'static dyn GlobalAlloc, *mut u8, Layout),
}

static JEMALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
static MIMALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

impl Block {
    pub(super) fn new(kind: Kind, length: usize) -> Self {
        let allocator: &'static dyn GlobalAlloc = match kind {
            Kind::BasePages => return Self::mapped(length, OwnAdvice::BasePages),
            Kind::HugePages => return Self::mapped(length, OwnAdvice::HugePages),
            Kind::Jemalloc => &JEMALLOC,
            Kind::Mimalloc => &MIMALLOC,
        };
        let layout = Layout::from_size_align(length, 4096).expect("a layout");
        // SAFETY: the layout is not empty.
        let start = unsafe { allocator.alloc(layout) };
        assert!(!start.is_null(), "out of memory");
        Self::Allocated(allocator, start, layout)
    }

    fn mapped(length: usize, advice: OwnAdvice) -> Self {
        let mut region = Region::new(Bytes(length as u64)).expect("addresses");
        let all = region.pages().length();
        // Where there are no huge pages, base pages it is.
        let _ = region.advise(Pages(0), all, advice);
        Self::Mapped(region)
    }

    /// Writes one byte into each page of 4 KiB.
    pub(super) fn touch(&mut self) {
        match self {
            Self::Mapped(region) => {
                let all = region.pages().length();
                region.touch(Pages(0), all);
            }
            Self::Allocated(_, start, layout) => {
                for offset in (0..layout.size()).step_by(4096) {
                    // SAFETY: inside of the block, which is nobody else's.
                    unsafe { start.wrapping_add(offset).write_volatile(1) }
                }
            }
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Self::Allocated(allocator, start, layout) = self {
            // SAFETY: allocated by it with this layout, and freed once.
            unsafe { allocator.dealloc(*start, *layout) }
        }
    }
}
