//! Whether this process has the memory that something is about, or is a forked child that has not.
//!
//! A process number would not do: the first process of a PID namespace has the same one as its child that
//! is the first of another, and a vforked child shares the memory under another one.

use crate::error::Result;
use crate::region::{OwnAdvice, Region};
use crate::units::{PAGE, Pages};

/// The memory in which it was made, told by a page that is wiped in a child (`MADV_WIPEONFORK`, Linux
/// 4.14).
#[derive(Debug)]
pub struct Home(Region);

impl Home {
    /// This process's.
    ///
    /// # Errors
    /// Those of mmap(2), and of madvise(2) before Linux 4.14.
    pub fn new() -> Result<Self> {
        let mut page = Region::new(PAGE)?;
        page.advise(Pages(0), PAGE.whole_pages(), OwnAdvice::WipeOnFork)?;
        page.write(0, &[1]);
        Ok(Self(page))
    }

    /// Whether the caller has that memory, and not a copy by fork(2) of it. Costs a look at the page.
    #[must_use]
    #[inline]
    pub fn is_here(&self) -> bool {
        self.0.peek(0) == 1
    }
}
