//! What the host as a whole shows of memory that is stuck.

use std::path::Path;

use recoup_sys::hugetlb::{self, Pool};
use recoup_sys::thp::{Size, Thp};
use recoup_sys::vmstat::VmStat;
use recoup_sys::{Bytes, Process, process};

/// Host-wide counters and the processes that die slowly.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Sizes of transparent huge pages, with the kernel's counters.
    pub thp_sizes: Vec<Size>,
    /// Huge pages that were queued for a split since boot (`thp_deferred_split_page`).
    pub deferred_splits: Option<u64>,
    /// Huge pages that were split since boot (`thp_split_page`).
    pub splits: Option<u64>,
    /// Lazily freed pages since boot (`pglazyfree`).
    pub lazily_freed_pages: Option<u64>,
    /// Pools of hugetlb pages.
    pub hugetlb_pools: Vec<Pool>,
    /// Whether struct pages of hugetlb pages are optimised from now on.
    pub vmemmap_optimised: Option<bool>,
    /// Processes that were killed or have ended, and still hold memory.
    pub dying: Vec<Dying>,
}

/// A process on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dying {
    /// Its number.
    pub pid: i32,
    /// Its short name.
    pub comm: String,
    /// Its state letter.
    pub state: char,
    /// Resident memory that it still shows.
    pub rss: Bytes,
}

impl Host {
    /// Reads it all. What this kernel doesn't tell is left out.
    #[must_use]
    pub fn read() -> Self {
        let vmstat = VmStat::read().unwrap_or_default();
        Self {
            thp_sizes: Thp::of_host().sizes(),
            deferred_splits: vmstat.get("thp_deferred_split_page"),
            splits: vmstat.get("thp_split_page"),
            lazily_freed_pages: vmstat.get("pglazyfree"),
            hugetlb_pools: hugetlb::pools(Path::new(hugetlb::DIRECTORY)),
            vmemmap_optimised: hugetlb::vmemmap_optimised(),
            dying: dying(),
        }
    }
}

/// Killed processes that have not let go of their memory, and processes whose first thread has
/// ended while another one keeps the address space.
fn dying() -> Vec<Dying> {
    let pids = process::all_pids().unwrap_or_default();
    let look = |pid: i32| {
        let process = Process::open(pid).ok()?;
        let summary = process.summary().ok()?;
        let ended = matches!(summary.state, 'Z' | 'X');
        let rss = if ended { process.threads_rss() } else { summary.rss };
        let holds = (ended || summary.killed) && rss > Bytes::ZERO;
        holds.then_some(Dying { pid, comm: summary.comm, state: summary.state, rss })
    };
    pids.into_iter().filter_map(look).collect()
}
