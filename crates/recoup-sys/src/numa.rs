//! NUMA nodes: which have memory, which one a page is on, and keeping memory on one
//! (Documentation/admin-guide/mm/numa_memory_policy.rst).

#![expect(unsafe_code, reason = "move_pages(2) and mbind(2) have no safe wrapper")]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::own;
use crate::procfile;
use crate::units::{PageIdx, PageRange};

/// Where the nodes are.
const DIRECTORY: &str = "/sys/devices/system/node";
/// Words of a mask of nodes: room for the 1024 that a kernel can have at most (`MAX_NUMNODES`).
const MASK_WORDS: usize = 16;

/// A node by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

impl Node {
    /// Its directory in sysfs.
    #[must_use]
    pub fn directory(self) -> PathBuf {
        Path::new(DIRECTORY).join(format!("node{}", self.0))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// The nodes that have memory, lowest number first. A kernel without `CONFIG_NUMA` has none to tell
/// apart: then it is node 0.
///
/// # Errors
/// Where the list cannot be understood.
pub fn nodes_with_memory() -> Result<Vec<Node>> {
    let path = Path::new(DIRECTORY).join("has_memory");
    if !path.exists() {
        return Ok(vec![Node(0)]);
    }
    let text = procfile::read_text(&path)?;
    parse_list(&text).ok_or_else(|| Error::malformed(path.display().to_string(), text))
}

/// A list like `0-1,3`.
fn parse_list(text: &str) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        nodes.extend((first..=last).map(Node));
    }
    Some(nodes)
}

/// The node that a page of this process is on (move_pages(2), as a query); nothing where no page is,
/// or only the shared zero page.
///
/// # Errors
/// Where the kernel has no NUMA (`ENOSYS`).
pub fn node_of(page: PageIdx) -> Result<Option<Node>> {
    let pages = [own::address(page)];
    let mut status: libc::c_int = -libc::ENOENT;
    // SAFETY: one address and one status, which live as long as the call. Without nodes to move to
    // (the null pointer) the kernel moves nothing and never looks at what the address points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<libc::c_int>(),
            &raw mut status,
            0,
        )
    };
    let fail = |error| Error::os("ask for the node of", page.to_string(), error);
    if result < 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    match u32::try_from(status) {
        Ok(node) => Ok(Some(Node(node))),
        Err(_) if [-libc::ENOENT, -libc::EFAULT].contains(&status) => Ok(None),
        Err(_) => Err(fail(io::Error::from_raw_os_error(-status))),
    }
}

/// Keeps memory of this process on a node (mbind(2), `MPOL_BIND`): pages that come to be there from
/// now on are of this node or none at all. Those that are there stay where they are, so it has to
/// be said before anything is touched.
///
/// Touching hugetlb memory kills (SIGBUS) where the node's pool has no free page: what mmap(2) promised
/// was a page of any node.
///
/// # Errors
/// `EINVAL` where the node has no memory or may not be used, `EFAULT` where nothing is mapped, `ENOSYS`
/// without NUMA.
///
/// Of a memfd or a file on tmpfs the kernel keeps the node with the file, also for other mappings and after
/// this one: see [`unbind`]. For files on other file systems it does nothing.
pub fn bind(range: PageRange, node: Node) -> Result<()> {
    let subject = || format!("{range} to {node}");
    let mut mask: [libc::c_ulong; MASK_WORDS] = [0; MASK_WORDS];
    let bits = libc::c_ulong::BITS;
    let word = usize::try_from(node.0 / bits).ok().and_then(|index| mask.get_mut(index));
    let no_such = || Error::os("bind", subject(), io::Error::from_raw_os_error(libc::EINVAL));
    *word.ok_or_else(no_such)? |= 1 << (node.0 % bits);
    // The kernel takes one bit less than it is told.
    let mask_bits = u64::from(bits) * MASK_WORDS as u64 + 1;
    // SAFETY: the mask lives as long as the call and has that many bits.
    unsafe { mbind(range, libc::MPOL_BIND, mask.as_ptr(), mask_bits) }
        .map_err(|error| Error::os("bind", subject(), error))
}

/// Takes a [`bind`] back (`MPOL_DEFAULT`): pages that come to be there from now on are of any node.
///
/// # Errors
/// `EFAULT` where nothing is mapped, `ENOSYS` without NUMA.
pub fn unbind(range: PageRange) -> Result<()> {
    // SAFETY: no mask is read where it has no bits.
    unsafe { mbind(range, libc::MPOL_DEFAULT, std::ptr::null(), 0) }
        .map_err(|error| Error::os("unbind", range.to_string(), error))
}

/// Sets the policy of a range of this process, which changes no mapping and no byte.
///
/// # Safety
/// The mask has that many bits less one.
unsafe fn mbind(
    range: PageRange,
    policy: libc::c_int,
    mask: *const libc::c_ulong,
    mask_bits: u64,
) -> io::Result<()> {
    let (start, length) = (own::address(range.start), own::length(range));
    // SAFETY: promised by the caller; nothing else is read or written.
    let result =
        unsafe { libc::syscall(libc::SYS_mbind, start, length, policy, mask, mask_bits, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_nodes_have_ranges_and_gaps() {
        let numbers = |text| parse_list(text).map(|nodes| nodes.iter().map(|n| n.0).collect());
        assert_eq!(numbers("0-1,3\n"), Some(vec![0, 1, 3]));
        assert_eq!(numbers("\n"), Some(vec![]));
        assert_eq!(numbers("0-x"), None::<Vec<u32>>);
    }
}
