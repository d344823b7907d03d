//! What the running kernel and the present privileges allow, probed once, as one value.
//!
//! Every answer comes from trying the thing out on this process's own memory, not from a version
//! number. Nothing else in the project branches on versions.

use std::fs;

use rustix::thread::CapabilitySet;

use crate::cgroup;
use crate::error::{Error, Result};
use crate::kpage::{Frames, KernelFrames};
use crate::madvise::{Advice, process_madvise};
use crate::own_status::OwnStatus;
use crate::pagemap::{Pagemap, Run};
use crate::process::Process;
use crate::region::{OwnAdvice, Region};
use crate::thp::Thp;
use crate::units::{BLOCK, Bytes, PAGE, PageRange, Pages, Pfn};
use crate::userfault::Userfault;

/// Whether something works here, and if not, why and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It was tried out and works.
    Works,
    /// It doesn't.
    Missing {
        /// What was found.
        why: String,
        /// The one thing to do for it.
        remedy: &'static str,
    },
}

impl Support {
    /// Whether it works.
    #[must_use]
    pub fn works(&self) -> bool {
        matches!(self, Self::Works)
    }

    /// The first of several things that is missing: why, and what to do.
    pub fn first_missing<'a>(
        needed: impl IntoIterator<Item = &'a Self>,
    ) -> Option<(&'a str, &'static str)> {
        needed.into_iter().find_map(|support| match support {
            Self::Works => None,
            Self::Missing { why, remedy } => Some((why.as_str(), *remedy)),
        })
    }

    fn from_result<T>(result: Result<T>, remedy: &'static str) -> Self {
        match result {
            Ok(_) => Self::Works,
            Err(error) => Self::Missing { why: error.to_string(), remedy },
        }
    }

    fn require(condition: bool, why: &str, remedy: &'static str) -> Self {
        if condition { Self::Works } else { Self::Missing { why: why.to_owned(), remedy } }
    }
}

/// The probe's answers.
#[derive(Clone, Debug)]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Base pages are 4 KiB, which everything here relies on.
    pub base_pages: Support,
    /// `pagemap` shows frame numbers (`CAP_SYS_ADMIN`).
    pub frame_numbers: Support,
    /// `/proc/kpageflags` and `/proc/kpagecount` can be read (root).
    pub frame_flags: Support,
    /// `PAGEMAP_SCAN` (Linux 6.7) finds the pages that hold something: sparse address spaces are
    /// searched fast.
    pub pagemap_scan: Support,
    /// `PAGEMAP_SCAN` shows where page tables are, empty ones included (Linux 6.7 to 7.2): they can be
    /// drawn, and fences are raised only where they are.
    pub empty_tables: Support,
    /// `PROCMAP_QUERY` (Linux 6.11) tells the size of a mapping's pages: hugetlb memory is also
    /// recognised where it is mounted in another mount namespace.
    pub procmap_query: Support,
    /// A `MADV_DONTNEED` of 2 MiB or more frees the page tables that it empties
    /// (`CONFIG_PT_RECLAIM`, Linux 6.14).
    pub table_reclaim: Support,
    /// A userfaultfd that covers faults of the kernel, too: this process's own page tables can be freed
    /// behind a fence while its threads run.
    pub userfaultfd: Support,
    /// A companion can be made: `unshare(CLONE_VM)`, which filters of system calls may forbid,
    /// pidfd_open(2) (Linux 5.3) and close_range(2) (Linux 5.9), on x86-64.
    pub companion: Support,
    /// `process_madvise(2)` takes `MADV_COLD` and `MADV_PAGEOUT` (Linux 5.10).
    pub process_madvise: Support,
    /// Other users' processes may be looked at (`CAP_SYS_PTRACE`).
    pub other_processes: Support,
    /// Other processes may be advised (`CAP_SYS_NICE` in the initial user namespace).
    pub advise_others: Support,
    /// Transparent huge pages can come to be.
    pub thp: Support,
    /// The kernel counts for each page of a huge page how often it is mapped. Kernels with
    /// `CONFIG_NO_PAGE_MAPCOUNT` (6.15) only know an average, from which no hole can be told.
    pub page_map_counts: Support,
    /// A cgroup hierarchy accounts memory.
    pub memory_cgroup: Support,
    /// The frame of the shared zero page, where frame numbers are shown.
    pub zero_page: Option<Pfn>,
}

impl Features {
    /// Tries everything out. Takes about a millisecond.
    ///
    /// # Errors
    /// Where not even anonymous memory or `/proc/self` is to be had.
    pub fn probe() -> Result<Self> {
        let pagemap = Pagemap::of_self()?;
        let zero_page = zero_page_frame(&pagemap)?;
        let capabilities = rustix::thread::capabilities(None).map(|sets| sets.effective);
        let capable = |capability| capabilities.is_ok_and(|set| set.contains(capability));
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            base_pages: Support::require(
                rustix::param::page_size() as u64 == PAGE.0,
                "base pages are not 4 KiB",
                "use a kernel with 4 KiB base pages",
            ),
            frame_numbers: Support::require(
                zero_page.is_some(),
                "pagemap hides frame numbers",
                "run as root (CAP_SYS_ADMIN)",
            ),
            frame_flags: Support::from_result(KernelFrames::open(), "run as root"),
            pagemap_scan: pagemap_scan(&pagemap)?,
            empty_tables: empty_tables(&pagemap)?,
            procmap_query: procmap_query()?,
            table_reclaim: table_reclaim()?,
            userfaultfd: userfaultfd(),
            companion: companion(),
            process_madvise: advise_self()?,
            other_processes: Support::require(
                capable(CapabilitySet::SYS_PTRACE),
                "CAP_SYS_PTRACE is not held",
                "run as root; your own processes can be looked at without",
            ),
            advise_others: Support::require(
                capable(CapabilitySet::SYS_NICE) && in_initial_user_namespace(),
                "CAP_SYS_NICE in the initial user namespace is not held",
                "run as root outside of containers, or grant CAP_SYS_NICE",
            ),
            thp: Support::require(
                Thp::of_host().sizes().iter().any(|size| size.enabled),
                "transparent huge pages of all sizes are off, or not in this kernel",
                "nothing to do: without huge pages there are no holes in them",
            ),
            page_map_counts: page_map_counts(&pagemap)?,
            memory_cgroup: Support::require(
                cgroup::Hierarchy::find()?.is_some(),
                "no mounted cgroup hierarchy has the memory controller",
                "mount cgroup2, or boot without cgroup_disable=memory",
            ),
            zero_page,
        })
    }
}

impl Features {
    /// The answers by name, as programs see them.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Support)> {
        [
            ("base_pages", &self.base_pages),
            ("frame_numbers", &self.frame_numbers),
            ("frame_flags", &self.frame_flags),
            ("pagemap_scan", &self.pagemap_scan),
            ("empty_tables", &self.empty_tables),
            ("procmap_query", &self.procmap_query),
            ("table_reclaim", &self.table_reclaim),
            ("userfaultfd", &self.userfaultfd),
            ("companion", &self.companion),
            ("process_madvise", &self.process_madvise),
            ("other_processes", &self.other_processes),
            ("advise_others", &self.advise_others),
            ("thp", &self.thp),
            ("page_map_counts", &self.page_map_counts),
            ("memory_cgroup", &self.memory_cgroup),
        ]
        .into_iter()
    }
}

/// Reads an untouched page, so that the kernel maps the shared zero page there.
fn zero_page_frame(pagemap: &Pagemap) -> Result<Option<Pfn>> {
    let mut region = Region::new(BLOCK)?;
    region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::BasePages).ok();
    let _zero = region.peek(0);
    let word = pagemap.word(region.pages().start)?;
    Ok(word.and_then(|word| word.frame()))
}

/// Touches one page: the search must find exactly that.
fn pagemap_scan(pagemap: &Pagemap) -> Result<Support> {
    let mut region = Region::new(BLOCK)?;
    region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::BasePages).ok();
    region.touch(Pages(7), Pages(1));
    let mut runs = [Run::default(); 4];
    let touched = PageRange::starting_at(region.pages().start + Pages(7), Pages(1));
    let held = pagemap.find_held(region.pages(), &mut runs);
    let only_touched = |found: &[Run]| found.len() == 1 && found[0].range() == touched;
    Ok(Support::require(
        held.is_ok_and(|scanned| only_touched(scanned.runs)),
        "PAGEMAP_SCAN is missing",
        "use Linux 6.7 or later; without it all of an address space is read, slowly",
    ))
}

/// Empties one of two page tables' places and never fills the other: the search must show exactly
/// the first one.
fn empty_tables(pagemap: &Pagemap) -> Result<Support> {
    let mut region = Region::new(Bytes(2 * BLOCK.0))?;
    region.advise(Pages(0), Bytes(2 * BLOCK.0).whole_pages(), OwnAdvice::BasePages).ok();
    region.touch(Pages(7), Pages(1));
    region.advise(Pages(7), Pages(1), OwnAdvice::Discard)?;
    let mut runs = [Run::default(); 4];
    let first = PageRange::starting_at(region.pages().start, BLOCK.whole_pages());
    let shown = pagemap.find_tables(region.pages(), &mut runs);
    let only_first = |found: &[Run]| found.len() == 1 && found[0].range() == first;
    Ok(Support::require(
        shown.is_ok_and(|scanned| only_first(scanned.runs)),
        "PAGEMAP_SCAN is missing or does not show empty page tables",
        "use Linux 6.7 to 7.2 (7.3 shows them no longer); elsewhere they are counted but not located, \
         and a sweep fences also where there are none",
    ))
}

fn procmap_query() -> Result<Support> {
    let region = Region::new(BLOCK)?;
    let own = Process::own()?;
    let told = own.page_size_at(region.pages().start);
    Ok(Support::require(
        told.is_ok_and(|size| size == PAGE),
        "PROCMAP_QUERY is missing",
        "use Linux 6.11 or later; without it hugetlb memory of other mount namespaces is taken for \
         files",
    ))
}

/// Discards all of a block with one page in it: there must be less page tables then. Other threads may
/// make some meanwhile, so that it is tried a few times.
fn table_reclaim() -> Result<Support> {
    let fail = |e| Error::os("read", "/proc/self/status", e);
    let status = OwnStatus::open().map_err(fail)?;
    let tables = || status.page_tables().map_err(fail);
    let tables_go = || -> Result<bool> {
        let mut region = Region::new(BLOCK)?;
        region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::BasePages).ok();
        region.touch(Pages(0), Pages(1));
        let before = tables()?;
        region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::Discard)?;
        Ok(tables()? < before)
    };
    let works = tables_go()? || tables_go()? || tables_go()?;
    Ok(Support::require(
        works,
        "the kernel keeps page tables that a discard has emptied",
        "use Linux 6.14 or later with CONFIG_PT_RECLAIM; without, owned ranges and plain mappings are mapped \
         anew instead",
    ))
}

/// Makes a hole in a huge page and asks how often a page in it is mapped. Where no huge page comes
/// to be, the kernel is taken to count, as all did before 6.15.
fn page_map_counts(pagemap: &Pagemap) -> Result<Support> {
    let mut region = Region::new(BLOCK)?;
    let half = Pages(BLOCK.whole_pages().0 / 2);
    region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::HugePages).ok();
    region.touch(Pages(0), Pages(1));
    let in_hole = pagemap.word(region.pages().start + half)?.and_then(|word| word.frame());
    let (Some(frame), Ok(frames)) = (in_hole, KernelFrames::open()) else {
        return Ok(Support::Works);
    };
    region.advise(half, half, OwnAdvice::Discard)?;
    Ok(Support::require(
        frames.map_count(frame)? == 0,
        "the kernel does not count mappings of single pages (CONFIG_NO_PAGE_MAPCOUNT)",
        "nothing to do: a hole of which another process maps a part may be counted too",
    ))
}

fn advise_self() -> Result<Support> {
    let process = Process::own()?;
    let mut region = Region::new(BLOCK)?;
    region.touch(Pages(0), Pages(1));
    let page = PageRange::starting_at(region.pages().start, Pages(1));
    let stopped = [Advice::Cold, Advice::PageOut]
        .into_iter()
        .find_map(|advice| process_madvise(&process, &[page], advice).stopped);
    Ok(match stopped {
        None => Support::Works,
        Some(error) => Support::Missing {
            why: format!("process_madvise: {error}"),
            remedy: "use Linux 5.10 or later, and run as root",
        },
    })
}

fn userfaultfd() -> Support {
    let opened = Userfault::open();
    Support::from_result(
        opened.map_err(|e| Error::os("open", "a userfaultfd that covers faults of the kernel", e)),
        "set vm.unprivileged_userfaultfd=1, grant CAP_SYS_PTRACE, or allow access to \
         /dev/userfaultfd (Linux 6.1)",
    )
}

#[cfg(target_arch = "x86_64")]
fn companion() -> Support {
    Support::from_result(
        crate::companion::probe(),
        "use Linux 5.9 or later, and allow unshare, pidfd_open and close_range in the container's \
         seccomp filter",
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn companion() -> Support {
    Support::require(false, "the companion exists on x86-64 only", "nothing to do")
}

fn in_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}
