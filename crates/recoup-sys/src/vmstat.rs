//! Host-wide counters: `/proc/vmstat` (proc_vmstat(5)).

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::procfile;

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
