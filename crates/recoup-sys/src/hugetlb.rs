//! Pools of hugetlb pages (Documentation/admin-guide/mm/hugetlbpage.rst) and what their struct
//! pages cost (Documentation/mm/vmemmap_dedup.rst).

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use procfs_core::process::MountInfos;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::procfile;
use crate::units::{Bytes, PAGE, PAGE_SHIFT};

/// Where the pools are.
pub const DIRECTORY: &str = "/sys/kernel/mm/hugepages";
/// Bytes that the kernel keeps for each base page (`struct page` on 64-bit machines).
pub const STRUCT_PAGE: Bytes = Bytes(64);

/// The pool of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of one page.
    pub page_size: Bytes,
    /// Pages in the pool.
    pub total: u64,
    /// Pages of it that nobody uses.
    pub free: u64,
    /// Free pages that are promised to a mapping.
    pub reserved: u64,
}

impl Pool {
    /// Memory that lies in the pool for nobody.
    #[must_use]
    pub fn idle(self) -> Bytes {
        Bytes(self.page_size.0 * self.free.saturating_sub(self.reserved))
    }

    /// Struct pages of the whole pool without the vmemmap optimisation.
    #[must_use]
    pub fn struct_pages_plain(self) -> Bytes {
        Bytes(self.total * (self.page_size.0 >> PAGE_SHIFT) * STRUCT_PAGE.0)
    }

    /// Struct pages of the whole pool with the optimisation, which keeps one page of them for
    /// each huge page.
    #[must_use]
    pub fn struct_pages_optimised(self) -> Bytes {
        Bytes(self.total * PAGE.0)
    }
}

/// The pools of a directory like [`DIRECTORY`], smallest page first.
#[must_use]
pub fn pools(directory: &Path) -> Vec<Pool> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut pools: Vec<Pool> = entries.filter_map(|entry| pool(&entry.path())).collect();
    pools.sort_unstable_by_key(|pool| pool.page_size);
    pools
}

fn pool(directory: &Path) -> Option<Pool> {
    let name = directory.file_name()?.to_str()?;
    let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let count = |name: &str| procfile::read_number(&directory.join(name)).ok();
    Some(Pool {
        page_size: Bytes::from_kib(kib),
        total: count("nr_hugepages")?,
        free: count("free_hugepages")?,
        reserved: count("resv_hugepages")?,
    })
}

/// Whether pages that join a pool from now on have their struct pages optimised; nothing where the
/// kernel cannot.
#[must_use]
pub fn vmemmap_optimised() -> Option<bool> {
    let setting = procfile::read_number(Path::new("/proc/sys/vm/hugetlb_optimize_vmemmap"));
    setting.ok().map(|value| value != 0)
}

/// The device numbers of hugetlb files: those of mounted hugetlbfs, and those of the kernel's own
/// mounts behind `MAP_HUGETLB` and memfds, which a memfd of each size tells.
#[must_use]
pub fn devices() -> BTreeSet<(u32, u32)> {
    let mounts: Option<MountInfos> = procfile::read_parsed(Path::new("/proc/self/mountinfo")).ok();
    let mounted = mounts.into_iter().flatten().filter(|mount| mount.fs_type == "hugetlbfs");
    let number = |majmin: &str| {
        let (major, minor) = majmin.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let internal = pools(Path::new(DIRECTORY)).into_iter().filter_map(|pool| {
        let file = memfd("recoup-probe", pool.page_size).ok()?;
        let device = rustix::fs::fstat(file).ok()?.st_dev;
        Some((rustix::fs::major(device), rustix::fs::minor(device)))
    });
    mounted.filter_map(|mount| number(&mount.majmin)).chain(internal).collect()
}

/// A memfd of hugetlb pages of this size, whose binary logarithm stands above bit 26 of the flags
/// (memfd_create(2), Linux 4.14).
///
/// # Errors
/// `ENODEV` or `EINVAL` where the kernel has no pages of this size; those of memfd_create(2).
pub fn memfd(name: &str, page_size: Bytes) -> rustix::io::Result<OwnedFd> {
    let size = page_size.0.checked_ilog2().ok_or(Errno::INVAL)? << 26;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size);
    rustix::fs::memfd_create(name, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn struct_pages_cost_a_64th_without_the_optimisation() {
        let pool = Pool { page_size: Bytes(1 << 30), total: 4, free: 3, reserved: 1 };
        assert_eq!(pool.struct_pages_plain(), Bytes(64 << 20));
        assert_eq!(pool.struct_pages_optimised(), Bytes(16 << 10));
        assert_eq!(pool.idle(), Bytes(2 << 30));
    }
}
