//! Pools of hugetlb pages (Documentation/admin-guide/mm/hugetlbpage.rst), for the host and for its
//! NUMA nodes: what is in them, what may be done to them ([`Order`]), and what their struct pages
//! cost (Documentation/mm/vmemmap_dedup.rst).
//!
//! The kernel silently does less than it is told. So nothing here believes a write: what was done
//! is the difference of two [`Snapshot`]s.

mod order;
mod shortfall;
mod vmemmap;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use procfs_core::process::MountInfos;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::numa::{self, Node};
use crate::procfile;
use crate::units::{Bytes, PAGE, PAGE_SHIFT};
use crate::vmstat;

pub use order::{Action, Change, Order};
pub use shortfall::Shortfall;
pub use vmemmap::{
    Joining, OPTIMIZE_VMEMMAP, StructPages, set_vmemmap, struct_pages, vmemmap_optimised,
};

/// Where the host's pools are.
pub const DIRECTORY: &str = "/sys/kernel/mm/hugepages";
/// Bytes that the kernel keeps for each base page (`struct page` on 64-bit machines).
pub const STRUCT_PAGE: Bytes = Bytes(64);

/// Whose pages are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Those of all nodes. New ones are spread evenly over them.
    Host,
    /// Those of one node.
    Node(Node),
}

impl Place {
    /// The directory of its pools.
    #[must_use]
    pub fn directory(self) -> PathBuf {
        match self {
            Self::Host => DIRECTORY.into(),
            Self::Node(node) => node.directory().join("hugepages"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this machine"),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// The pool of one size, or the part of it that is on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of one page.
    pub page_size: Bytes,
    /// Pages in the pool, surplus ones included.
    pub total: u64,
    /// Pages of it that nobody uses.
    pub free: u64,
    /// Free pages that are promised to a mapping. The kernel promises pages of the host, never of a
    /// node: 0 for a part on a node.
    pub reserved: u64,
    /// Pages of it beyond its size, which leave it once they are free: what was in use when it was
    /// made smaller, and what it lent (`nr_overcommit_hugepages`).
    pub surplus: u64,
}

impl Pool {
    /// Memory that lies in the pool for nobody.
    #[must_use]
    pub fn idle(self) -> Bytes {
        Bytes(self.page_size.0 * self.free.saturating_sub(self.reserved))
    }

    /// The size of the pool as it was asked for: without surplus pages.
    #[must_use]
    pub fn persistent(self) -> u64 {
        self.total.saturating_sub(self.surplus)
    }

    /// Pages that can leave the pool: free, promised to nobody, and not needed to make up for
    /// surplus pages in use.
    #[must_use]
    pub fn releasable(self) -> u64 {
        self.free.saturating_sub(self.reserved).saturating_sub(self.surplus)
    }

    /// Memory of the whole pool.
    #[must_use]
    pub fn memory(self) -> Bytes {
        Bytes(self.total * self.page_size.0)
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

/// The pools of a directory like [`DIRECTORY`], or one of a node, smallest page first.
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
        reserved: count("resv_hugepages").unwrap_or(0),
        surplus: count("surplus_hugepages")?,
    })
}

/// All pools at one moment, and what the kernel says of memory then. The numbers are read one after
/// another: they agree with each other only where nobody changes them meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `MemTotal`: memory that is not the kernel's own from boot on. It grows by the struct pages from boot
    /// that the optimisation frees, and never shrinks again: what has to be rebuilt later is taken
    /// from it like any other memory.
    pub memory: Bytes,
    /// `MemAvailable`: what can be had of it without swapping.
    pub available: Bytes,
    /// What all struct pages take, where the kernel counts them.
    pub struct_pages: Option<StructPages>,
    /// The pools of the host, smallest page first, then those of each node.
    pub pools: Vec<(Place, Pool)>,
}

impl Snapshot {
    /// Reads it all.
    ///
    /// # Errors
    /// Where `/proc/meminfo` or the list of nodes cannot be read.
    pub fn take() -> Result<Self> {
        let nodes = numa::nodes_with_memory()?.into_iter().map(Place::Node);
        let places = std::iter::once(Place::Host).chain(nodes);
        let of_place =
            |place: Place| pools(&place.directory()).into_iter().map(move |pool| (place, pool));
        Ok(Self {
            memory: vmstat::total()?,
            available: vmstat::available()?,
            struct_pages: struct_pages(),
            pools: places.flat_map(of_place).collect(),
        })
    }

    /// The pools of a place, smallest page first.
    pub fn at(&self, place: Place) -> impl Iterator<Item = Pool> {
        self.pools.iter().filter(move |(at, _)| *at == place).map(|(_, pool)| *pool)
    }

    /// The pool of one size.
    ///
    /// # Errors
    /// Where the place has no pages of this size; says which it has.
    pub fn pool(&self, place: Place, page_size: Bytes) -> Result<Pool> {
        let found = self.at(place).find(|pool| pool.page_size == page_size);
        found.ok_or_else(|| {
            let sizes: Vec<String> = self.at(place).map(|pool| size_name(pool.page_size)).collect();
            let remedy = match sizes.as_slice() {
                [] if place == Place::Host => "use a kernel with CONFIG_HUGETLBFS".to_owned(),
                [] => "name a node with memory: see /sys/devices/system/node/has_memory".to_owned(),
                _ => format!("name one of its sizes: {}", sizes.join(", ")),
            };
            let what = format!("{place} has no huge pages of {}", size_name(page_size));
            Error::Unavailable { what, remedy }
        })
    }
}

/// A page size as the kernel's own parameters name it: `2M`, `1G`.
#[must_use]
pub fn size_name(size: Bytes) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let fits = |(shift, _): &(u32, &str)| size.0 > 0 && size.0.trailing_zeros() >= *shift;
    match units.into_iter().find(fits) {
        Some((shift, unit)) => format!("{}{unit}", size.0 >> shift),
        None => size.0.to_string(),
    }
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
/// (memfd_create(2), Linux 4.14), which can be sealed (Linux 4.16).
///
/// # Errors
/// `ENODEV` or `EINVAL` where the kernel has no pages of this size; those of memfd_create(2).
pub fn memfd(name: &str, page_size: Bytes) -> rustix::io::Result<OwnedFd> {
    let size = page_size.0.checked_ilog2().ok_or(Errno::INVAL)? << 26;
    let kind = MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind;
    rustix::fs::memfd_create(name, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Pool =
        Pool { page_size: Bytes(1 << 30), total: 4, free: 3, reserved: 1, surplus: 0 };

    #[test]
    fn struct_pages_cost_a_64th_without_the_optimisation() {
        assert_eq!(POOL.struct_pages_plain(), Bytes(64 << 20));
        assert_eq!(POOL.struct_pages_optimised(), Bytes(16 << 10));
        assert_eq!(POOL.idle(), Bytes(2 << 30));
    }

    #[test]
    fn what_is_promised_or_owed_cannot_be_released() {
        assert_eq!(POOL.releasable(), 2);
        assert_eq!(Pool { surplus: 1, ..POOL }.releasable(), 1);
        assert_eq!(Pool { surplus: 4, ..POOL }.releasable(), 0);
        assert_eq!(Pool { surplus: 1, ..POOL }.persistent(), 3);
    }

    #[test]
    fn sizes_have_the_names_that_the_kernel_takes() {
        let names = [1 << 30, 2 << 20, 16 << 30, 64 << 10, 0].map(|size| size_name(Bytes(size)));
        assert_eq!(names, ["1G", "2M", "16G", "64K", "0"]);
    }

    #[test]
    fn a_size_that_is_not_there_is_answered_with_those_that_are() {
        let pools = vec![(Place::Host, POOL), (Place::Node(Node(0)), POOL)];
        let (memory, available) = (Bytes(1 << 34), Bytes(1 << 33));
        let snapshot = Snapshot { memory, available, struct_pages: None, pools };
        let error = snapshot.pool(Place::Host, Bytes(4 << 20)).expect_err("no such size");
        let said = error.to_string();
        assert_eq!(said, "this machine has no huge pages of 4M: name one of its sizes: 1G");
        let error = snapshot.pool(Place::Node(Node(7)), POOL.page_size).expect_err("no such node");
        assert!(error.to_string().contains("node 7 has no huge pages of 1G: name a node"));
    }
}
