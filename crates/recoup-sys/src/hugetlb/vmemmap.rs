//! The vmemmap optimisation (`CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP`): of the struct pages of a
//! hugetlb page, all but the first 4 KiB go back to the kernel while the page is in a pool.

use std::fs;
use std::path::Path;

use super::STRUCT_PAGE;
use super::order::write;
use crate::error::{Error, Result};
use crate::procfile;
use crate::units::{Bytes, PAGE_SHIFT, Pages};
use crate::vmstat::VmStat;

/// The setting, which is read when a page joins a pool: those that are in one stay as they are.
pub const OPTIMIZE_VMEMMAP: &str = "/proc/sys/vm/hugetlb_optimize_vmemmap";

/// What becomes of the struct pages of those that join a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// They are freed but for 4 KiB.
    Optimised,
    /// They stay.
    Plain,
}

/// Whether pages that join a pool from now on have their struct pages optimised; nothing where the
/// kernel cannot.
#[must_use]
pub fn vmemmap_optimised() -> Option<bool> {
    let setting = procfile::read_number(Path::new(OPTIMIZE_VMEMMAP));
    setting.ok().map(|value| value != 0)
}

/// Switches the optimisation for pages that join a pool from now on, until it is switched again or
/// the machine restarts. Returns whether it is on then, read again.
///
/// # Errors
/// Where the kernel cannot optimise, or the setting may not be written.
pub fn set_vmemmap(joining: Joining) -> Result<bool> {
    let cannot = || Error::Unavailable {
        what: "this kernel keeps all struct pages of huge pages".to_owned(),
        remedy: "use one with CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP (Linux 5.14 or later)"
            .to_owned(),
    };
    vmemmap_optimised().ok_or_else(cannot)?;
    let value = match joining {
        Joining::Optimised => "1",
        Joining::Plain => "0",
    };
    write(Path::new(OPTIMIZE_VMEMMAP), value)?;
    vmemmap_optimised().ok_or_else(cannot)
}

/// Struct pages of all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructPages {
    /// What they take when nothing is optimised.
    pub plain: Bytes,
    /// What they take now.
    pub now: Bytes,
}

impl StructPages {
    /// What the optimisation saves now. Memory of devices, whose struct pages count in `now` only, makes
    /// it look smaller.
    #[must_use]
    pub fn saved(self) -> Bytes {
        self.plain.saturating_sub(self.now)
    }
}

/// What all struct pages take, by the kernel's own count (`nr_memmap_pages` and `nr_memmap_boot_pages`,
/// Linux 6.11); nothing where it does not count them, or does not say in what blocks memory comes
/// (`CONFIG_MEMORY_HOTPLUG`).
#[must_use]
pub fn struct_pages() -> Option<StructPages> {
    let counters = VmStat::read().ok()?;
    let now = counters.get("nr_memmap_pages")? + counters.get("nr_memmap_boot_pages")?;
    let memory = memory_of_blocks(Path::new("/sys/devices/system/memory"))?;
    let plain = Bytes((memory.0 >> PAGE_SHIFT) * STRUCT_PAGE.0);
    Some(StructPages { plain, now: Pages(now).bytes() })
}

/// Addresses of physical memory that have struct pages: the blocks of memory hotplug, whole even
/// where there is a gap in one.
fn memory_of_blocks(directory: &Path) -> Option<Bytes> {
    let size = procfile::read_text(&directory.join("block_size_bytes")).ok()?;
    let size = u64::from_str_radix(size.trim(), 16).ok()?;
    let is_block = |name: &str| {
        let number = name.strip_prefix("memory");
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let entries = fs::read_dir(directory).ok()?.flatten();
    let blocks = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_block)).count();
    Some(Bytes(size * blocks as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_of_memory_count() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["memory0", "memory12", "memory_like", "power", "memory"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        assert_eq!(memory_of_blocks(root.path()), None);
        fs::write(root.path().join("block_size_bytes"), "8000000\n").expect("a file");
        assert_eq!(memory_of_blocks(root.path()), Some(Bytes(2 * (128 << 20))));
    }

    #[test]
    fn what_devices_add_does_not_make_the_saving_negative() {
        let pages = StructPages { plain: Bytes(4096), now: Bytes(8192) };
        assert_eq!(pages.saved(), Bytes::ZERO);
    }
}
