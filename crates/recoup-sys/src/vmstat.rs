//! Host-wide counters: `/proc/vmstat` (proc_vmstat(5)), `/proc/meminfo` (proc_meminfo(5)).

use std::collections::HashMap;
use std::path::Path;

use procfs_core::Meminfo;

use crate::error::{Error, Result};
use crate::procfile;
use crate::units::Bytes;

const MEMINFO: &str = "/proc/meminfo";

/// A snapshot of the counters.
#[derive(Clone, Debug, Default)]
pub struct VmStat(HashMap<String, u64>);

impl VmStat {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// Where `/proc/vmstat` cannot be read.
    pub fn read() -> Result<Self> {
        let text = procfile::read_text(Path::new("/proc/vmstat"))?;
        let owned = |(key, value): (&str, u64)| (key.to_owned(), value);
        Ok(Self(procfile::flat_keyed(&text).map(owned).collect()))
    }

    /// A counter, where this kernel has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

/// Memory of the host that can be had without swapping (`MemAvailable`, Linux 3.14): what is free, and
/// what the kernel would take from its caches.
///
/// # Errors
/// Where `/proc/meminfo` cannot be read.
pub fn available() -> Result<Bytes> {
    let available = meminfo()?
        .mem_available
        .ok_or_else(|| Error::malformed(MEMINFO, "it has no MemAvailable (Linux 3.14)"))?;
    Ok(Bytes(available))
}

/// Memory of the host that the kernel did not take for itself at boot (`MemTotal`).
///
/// # Errors
/// Where `/proc/meminfo` cannot be read.
pub fn total() -> Result<Bytes> {
    Ok(Bytes(meminfo()?.mem_total))
}

fn meminfo() -> Result<Meminfo> {
    procfile::read_parsed(Path::new(MEMINFO))
}
