//! Pressure stall information: the kernel says when memory runs short
//! (Documentation/accounting/psi.rst, Linux 5.2 for triggers).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// A trigger on memory pressure: some task waited for memory for a tenth of two seconds. Triggers
/// of unprivileged programs (6.5) need windows of a multiple of 2 s.
#[derive(Debug)]
pub struct MemoryPressure {
    file: OwnedFd,
}

impl MemoryPressure {
    /// Sets a trigger on a pressure file: `/proc/pressure/memory`, or a cgroup's `memory.pressure`.
    ///
    /// # Errors
    /// `ENOENT` or `EOPNOTSUPP` where the kernel has none or it is off (`psi=1`); `EPERM` without
    /// privileges before 6.5.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        rustix::io::write(&file, b"some 200000 2000000\0")?;
        Ok(Self { file })
    }

    /// Whether there was pressure since the last call. Does not wait.
    #[must_use]
    pub fn seen(&self) -> bool {
        let mut asked = [PollFd::new(&self.file, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let told = rustix::event::poll(&mut asked, Some(&now));
        told.is_ok_and(|count| count > 0) && asked[0].revents().contains(PollFlags::PRI)
    }
}
