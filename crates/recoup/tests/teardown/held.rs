//! Memory that cannot be freed until somebody lets it go: a userfaultfd that wants to be told first, and whose
//! reader doesn't listen.

#![expect(unsafe_code, reason = "userfaultfd(2) with events has no safe wrapper here")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use recoup_sys::PageRange;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whoever discards or unmaps the memory waits until this is dropped.
#[derive(Debug)]
pub(crate) struct Held(OwnedFd);

impl Held {
    /// Nothing where the kernel has no userfaultfd for this program.
    pub(crate) fn new(pages: PageRange) -> Option<Self> {
        const USER_MODE_ONLY: libc::c_int = 1;
        const API: u64 = 0xc018_aa3f;
        const REGISTER: u64 = 0xc020_aa00;
        const EVENT_REMOVE: u64 = 1 << 3;
        const MISSING: u64 = 1;
        let flags = libc::O_CLOEXEC | USER_MODE_ONLY;
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: made right above, and known here only.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let ask = |request: u64, mut words: [u64; 4]| {
            // SAFETY: both requests have structures of at most four words, which the kernel reads and writes.
            unsafe { libc::ioctl(fd.as_raw_fd(), request, words.as_mut_ptr()) == 0 }
        };
        let length = pages.length().bytes().0;
        let held = ask(API, [0xaa, EVENT_REMOVE, 0, 0])
            && ask(REGISTER, [pages.start.address(), length, MISSING, 0]);
        held.then_some(Self(fd))
    }

    /// Whether somebody waits before long.
    pub(crate) fn is_awaited(&self, before: Duration) -> bool {
        let mut told = [PollFd::new(&self.0, PollFlags::IN)];
        let before = Timespec::try_from(before).expect("a short time");
        poll(&mut told, Some(&before)) == Ok(1)
    }
}
