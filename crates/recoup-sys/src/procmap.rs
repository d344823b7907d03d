//! One mapping of a process, asked for by address: the `PROCMAP_QUERY` ioctl of `/proc/PID/maps`
//! (Linux 6.11). It tells what the text of that file doesn't: the size of a mapping's pages.

#![expect(unsafe_code, reason = "PROCMAP_QUERY has no safe wrapper")]

use std::os::fd::AsFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::units::{Bytes, PageIdx};

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const _: () = assert!(size_of::<Query>() == 104);

/// The size of the pages of the mapping that holds `page`, of the process whose `maps` is open.
///
/// # Errors
/// `ENOTTY` before Linux 6.11, `ENOENT` where nothing is mapped.
pub(crate) fn page_size(maps: impl AsFd, page: PageIdx) -> rustix::io::Result<Bytes> {
    const PROCMAP_QUERY: Opcode = opcode::read_write::<Query>(b'f', 17);
    let size = size_of::<Query>() as u64;
    let mut query = Query { size, query_addr: page.address(), ..Query::default() };
    // SAFETY: the opcode is that of PROCMAP_QUERY, which expects a `procmap_query`: `Query`.
    let updater = unsafe { Updater::<PROCMAP_QUERY, Query>::new(&mut query) };
    // SAFETY: the query asks for no name and no build id, so the kernel writes to it alone, and it
    // lives as long as the call.
    unsafe { ioctl(maps, updater) }?;
    Ok(Bytes(query.vma_page_size))
}
