//! How many bytes of page tables this address space has: `VmPTE` of `/proc/self/status`, read
//! without allocating.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::units::Bytes;

/// This process's `status`, open.
#[derive(Debug)]
pub struct OwnStatus {
    file: OwnedFd,
}

impl OwnStatus {
    /// Opens it. Means the calling process: of two that share an address space each opens its own, or the
    /// file ends with the other.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self { file: rustix::fs::open(c"/proc/self/status", flags, Mode::empty())? })
    }

    /// Bytes of page tables of all levels but the top one (`VmPTE`; with PMD and PUD tables since
    /// Linux 4.15). Costs about 6 us.
    ///
    /// # Errors
    /// Those of pread(2); `EBADMSG` where the line is missing.
    pub fn page_tables(&self) -> Result<Bytes> {
        let mut buffer = [0; 4096];
        let read = rustix::io::pread(&self.file, &mut buffer, 0)?;
        let text = buffer.get(..read).unwrap_or_default();
        let mut lines = text.split(|&byte| byte == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(b"VmPTE:")).ok_or(Errno::BADMSG)?;
        let kib = value.strip_suffix(b" kB").ok_or(Errno::BADMSG)?;
        number(kib.trim_ascii()).map(Bytes::from_kib).ok_or(Errno::BADMSG)
    }
}

/// A whole field as a decimal number.
fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tables_are_those_of_the_parsed_status() {
        let told = OwnStatus::open().unwrap().page_tables().unwrap();
        let own = crate::Process::own().unwrap();
        let parsed = own.summary().unwrap().page_tables;
        assert!(told.0.abs_diff(parsed.0) < 1 << 20, "{told:?} {parsed:?}");
        assert!(told > Bytes::ZERO);
    }
}
