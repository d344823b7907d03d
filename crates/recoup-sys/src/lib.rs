//! Every system call and kernel file that recoup uses, each once, typed.
//!
//! Most of the project's `unsafe` is in this room (the rest is listed in docs/architecture.md).
//! Nothing here decides anything: it asks the kernel, and hands back what the kernel said, with
//! errors that name the operation, its subject and the `errno`.
//!
//! | module | the kernel's side of it |
//! |---|---|
//! | [`units`] | pages, bytes, page indices and frames as different types |
//! | [`process`] | a process as a pidfd: `status`, `maps`, `cgroup` |
//! | [`maps`] | `/proc/PID/maps`, and its `PROCMAP_QUERY` ioctl |
//! | [`pagemap`] | `/proc/PID/pagemap` and its `PAGEMAP_SCAN` ioctl |
//! | [`kpage`] | `/proc/kpageflags`, `/proc/kpagecount` |
//! | [`madvise`] | `process_madvise(2)` |
//! | [`addresses`] | addresses set apart, and memory put behind them |
//! | [`metadata`] | whether there are struct pages for what a file maps |
//! | [`home`] | whether this is a forked child |
//! | [`blockset`] | the pages of a 2 MiB block as a set |
//! | [`own`] | what the owner of memory may do with it |
//! | [`reserved`] | a range whose owner says which pages are in use |
//! | [`region`], [`mapped`] | this process's own memory, unmapped when dropped |
//! | [`slices`] | memory cut up for several threads |
//! | [`companion`] | a helper process that shares this one's memory: clone(2) with `CLONE_VM` |
//! | [`own_maps`], [`own_status`] | this process's mappings and page tables, without allocating |
//! | [`userfault`], [`workroom`] | userfaultfd(2), the fence made of it, and memory of its user's own |
//! | [`pressure`] | pressure stall information |
//! | [`cgroup`] | memory controller of cgroup v1 and v2 |
//! | [`numa`] | nodes, and the memory of one: move_pages(2), mbind(2) |
//! | [`urgency`] | how soon a thread gets a processor |
//! | [`hugetlb`] | pools of huge pages: what is in them, what may be done to them |
//! | [`thp`], [`vmstat`] | host-wide settings and counters |
//! | [`features`] | what this kernel and these privileges allow, probed once |

pub mod addresses;
#[cfg(target_arch = "x86_64")]
mod bare;
pub mod blockset;
pub mod cgroup;
#[cfg(target_arch = "x86_64")]
pub mod companion;
pub mod error;
pub mod features;
pub mod home;
pub mod hugetlb;
mod kcmp;
pub mod kpage;
pub mod madvise;
pub mod mapped;
pub mod maps;
pub mod metadata;
pub mod numa;
pub mod own;
#[cfg(target_arch = "x86_64")]
pub mod own_maps;
pub mod own_status;
pub mod pagemap;
pub mod pressure;
pub mod process;
mod procfile;
mod procmap;
pub mod region;
pub mod reserved;
pub mod slices;
pub mod thp;
pub mod units;
pub mod urgency;
pub mod userfault;
pub mod vmstat;
pub mod workroom;

pub use error::{Error, Result};
pub use features::{Features, Support};
pub use process::Process;
pub use rustix::io::Errno;
pub use units::{Bytes, PageIdx, PageRange, Pages, Pfn};
