//! Memory of its own for one who fences memory: what he writes to meanwhile must not lie behind his
//! own fence, or he waits for himself for ever.
//!
//! It also knows whether it was forked: its first page is wiped in a child (`MADV_WIPEONFORK`,
//! Linux 4.14). Nothing here allocates after [`Workroom::new`].

#![expect(unsafe_code, reason = "memory of a region is handed out as runs")]

use rustix::process::{Pid, getpid};

use crate::error::Result;
use crate::own::address;
use crate::pagemap::Run;
use crate::region::{OwnAdvice, Region};
use crate::units::{BLOCK, PAGE_BYTES, PageRange, Pages};

/// A 2 MiB block of its own, with room for runs.
#[derive(Debug)]
pub struct Workroom {
    memory: Region,
    user: Pid,
}

/// Who has come to use a [`Workroom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newcomer {
    /// The process that entered it last.
    Same,
    /// A child by fork(2): with copies of memory and descriptors, both its own.
    Child,
    /// Another process in the same memory, with descriptors of its own (clone(2) with `CLONE_VM`).
    Sharer,
}

impl Workroom {
    /// Runs that there is room for.
    pub const RUNS: usize = 512;

    /// Maps it.
    ///
    /// # Errors
    /// Those of mmap(2), and of madvise(2) before Linux 4.14.
    pub fn new() -> Result<Self> {
        let mut memory = Region::new(BLOCK)?;
        let pages = memory.pages();
        // A huge page would be 2 MiB for some KiB. Refused where there are none.
        let _ = memory.advise(Pages(0), pages.length(), OwnAdvice::BasePages);
        memory.advise(Pages(0), pages.length(), OwnAdvice::WipeOnFork)?;
        let mut room = Self { memory, user: getpid() };
        room.enter();
        Ok(room)
    }

    /// The pages of it: to be left out by fences.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.memory.pages()
    }

    /// Who is calling.
    #[must_use]
    pub fn newcomer(&self) -> Newcomer {
        match self.memory.peek(0) {
            0 => Newcomer::Child,
            _ if self.user == getpid() => Newcomer::Same,
            _ => Newcomer::Sharer,
        }
    }

    /// From now on the calling process is the one that uses it.
    pub fn enter(&mut self) {
        self.memory.write(0, &[1]);
        self.user = getpid();
    }

    /// Room for what looks find.
    #[must_use]
    pub fn runs(&mut self) -> &mut [Run] {
        let start = address(self.pages().start).cast::<Run>();
        // The first page is for the mark.
        let start = start.wrapping_byte_add(PAGE_BYTES);
        // SAFETY: the places lie within the region, aligned, behind the first page; any bytes are
        // runs, and a fresh page is zero; the exclusive borrow is the region's only one.
        unsafe { std::slice::from_raw_parts_mut(start, Self::RUNS) }
    }
}

const _: () = assert!(PAGE_BYTES + Workroom::RUNS * size_of::<Run>() <= 2 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_within_and_apart_from_the_mark() {
        let mut room = Workroom::new().unwrap();
        assert_eq!(room.newcomer(), Newcomer::Same);
        let pages = room.pages();
        let runs = room.runs();
        assert_eq!(runs.len(), Workroom::RUNS);
        let bytes = runs.as_ptr_range();
        let range = pages.start.address()..pages.end.address();
        assert!(range.contains(&(bytes.start.addr() as u64)));
        assert!(range.contains(&(bytes.end.addr() as u64)));
        runs.fill(Run::default());
        assert_eq!(room.newcomer(), Newcomer::Same);
    }
}
