//! Whether this process has the memory that something is about, or is a forked child that has not.
//!
//! A number would not do: the first process of a PID namespace has the same one as its child that is
//! the first of another, and a vforked child shares the memory under another one.

#![expect(unsafe_code, reason = "a page is mapped that children find wiped")]

use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::units::PAGE_BYTES;

/// The memory in which it was made: a page that is wiped in a child (`MADV_WIPEONFORK`, Linux 4.14).
#[derive(Debug)]
pub struct Home(NonNull<u8>);

// SAFETY: the page is only read, after it was written once.
unsafe impl Send for Home {}
// SAFETY: as above.
unsafe impl Sync for Home {}

impl Home {
    /// This process's.
    ///
    /// # Errors
    /// Those of mmap(2), and of madvise(2) before Linux 4.14.
    pub fn new() -> Result<Self> {
        let fail = |e| Error::os("map", "a page that tells of a fork", e);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let page = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE_BYTES, protection, flags)
        };
        let page = page.map_err(fail)?.cast::<u8>();
        let home = Self(NonNull::new(page).unwrap_or(NonNull::dangling()));
        // SAFETY: the page is this value's own, and what a child sees there is meant.
        unsafe { rustix::mm::madvise(page.cast(), PAGE_BYTES, Advice::LinuxWipeOnFork) }
            .map_err(fail)?;
        // SAFETY: as above: mapped, writable, and known to nobody else yet.
        unsafe { page.write_volatile(1) };
        Ok(home)
    }

    /// Whether the caller has that memory. Costs a look at the page.
    #[must_use]
    #[inline]
    pub fn is_here(&self) -> bool {
        // SAFETY: mapped as long as this value lives, in children too.
        unsafe { self.0.as_ptr().read_volatile() == 1 }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // SAFETY: exactly the page that `new` mapped, which a child has as well.
        let result = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
        debug_assert!(result.is_ok(), "munmap of an own page: {result:?}");
    }
}
