//! Whether this is a forked child, told by a page that the kernel wipes there (`MADV_WIPEONFORK`, Linux
//! 4.14): unlike a process number, it is no other's in another namespace, and reading it is no system call.

use crate::error::Result;
use crate::region::{OwnAdvice, Region};
use crate::units::{PAGE, Pages};

/// A mark that children of this process do not have.
#[derive(Debug)]
pub struct ForkMark(Region);

impl ForkMark {
    /// Makes it; a page of memory.
    ///
    /// # Errors
    /// Those of mmap(2), and of madvise(2) before Linux 4.14.
    pub fn new() -> Result<Self> {
        let mut page = Region::new(PAGE)?;
        page.advise(Pages(0), PAGE.whole_pages(), OwnAdvice::WipeOnFork)?;
        page.write(0, &[1]);
        Ok(Self(page))
    }

    /// Whether the caller is a child by fork(2) of the process that made it, or a child of such a one. One
    /// that shares the memory, as by vfork(2), is not.
    #[must_use]
    pub fn is_in_child(&self) -> bool {
        self.0.peek(0) == 0
    }
}
