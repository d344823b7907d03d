//! Pressure stall information: the kernel says when memory runs short
//! (Documentation/accounting/psi.rst, Linux 5.2 for triggers).

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

use crate::Process;
use crate::cgroup::{Hierarchy, Version};

/// The whole host's pressure.
const HOST: &CStr = c"/proc/pressure/memory";

/// The pressure file that is nearest to this process and can have a trigger: its own cgroup's
/// `memory.pressure` (version 2), else the host's.
#[must_use]
pub fn nearest_file() -> CString {
    let own = of_own_cgroup().filter(|file| MemoryPressure::open(file).is_ok());
    own.unwrap_or_else(|| HOST.to_owned())
}

fn of_own_cgroup() -> Option<CString> {
    let hierarchy = Hierarchy::find().ok()?.filter(|found| found.version() == Version::V2)?;
    let file = hierarchy.of_process(&Process::own().ok()?).ok()??.path().join("memory.pressure");
    CString::new(file.as_os_str().as_bytes()).ok()
}

/// A trigger on memory pressure: some task waited for memory for a tenth of two seconds. Triggers
/// of unprivileged programs (6.5) need windows of a multiple of 2 s.
#[derive(Debug)]
pub struct MemoryPressure {
    file: OwnedFd,
}

impl MemoryPressure {
    /// Sets a trigger on a pressure file: `/proc/pressure/memory`, or a cgroup's `memory.pressure`.
    /// Allocates nothing.
    ///
    /// # Errors
    /// `ENOENT` or `EOPNOTSUPP` where the kernel has none or it is off (`psi=1`); `EPERM` without
    /// privileges before 6.5.
    pub fn open(path: &CStr) -> Result<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_is_a_pressure_file() {
        let file = nearest_file().into_string().unwrap();
        let cgroup = file.ends_with("/memory.pressure") && std::fs::exists(&file).unwrap();
        assert!(cgroup || file == "/proc/pressure/memory", "{file}");
    }
}
