//! A process, as a pidfd first and a number only for display.
//!
//! A number can be reused; a [`Process`] never means another one than the process it was opened
//! for. Its `/proc` directory is opened first and its pidfd second, and the directory is then asked
//! whether the process still lives: so both are known to mean the same one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use procfs_core::ProcessCGroups;
use procfs_core::process::{Stat, Status};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::kcmp;
use crate::maps::{self, Mapping};
use crate::pagemap::Pagemap;
use crate::units::{Bytes, PageIdx};
use crate::{procfile, procmap};

/// A living process.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    directory: OwnedFd,
}

/// What `/proc/PID/status` says of a process's memory and state (proc_pid_status(5)).
#[derive(Clone, Debug)]
pub struct Summary {
    /// The process's short name.
    pub comm: String,
    /// Its state: `R`, `S`, `D`, `Z`, `X`, ...
    pub state: char,
    /// Whether it has an address space: kernel threads and zombies have none.
    pub has_memory: bool,
    /// Whether it is one of the kernel's own.
    pub is_kernel_thread: bool,
    /// Where its stack begins: equal for processes that share an address space.
    pub stack_start: u64,
    /// Whether a SIGKILL is pending.
    pub killed: bool,
    /// Resident memory (`VmRSS`).
    pub rss: Bytes,
    /// Resident anonymous memory (`RssAnon`).
    pub rss_anon: Bytes,
    /// Resident shared memory (`RssShmem`).
    pub rss_shmem: Bytes,
    /// Page tables of all levels but the top one (`VmPTE`).
    pub page_tables: Bytes,
}

impl Process {
    /// Opens this process.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn own() -> Result<Self> {
        Self::open(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Opens the process with this number.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if there is none.
    pub fn open(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}");
        let gone_or = |e: rustix::io::Errno| match e {
            rustix::io::Errno::NOENT | rustix::io::Errno::SRCH => Error::NoSuchProcess(pid),
            other => Error::os("open", format!("process {pid}"), other),
        };
        let raw = Pid::from_raw(pid).ok_or(Error::NoSuchProcess(pid))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(gone_or)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::INVAL => Error::NoSuchProcess(pid),
            other => gone_or(other),
        })?;
        let process = Self { pid, pidfd, directory };
        process.read("stat")?;
        Ok(process)
    }

    /// The process's number, for people.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What its `status` says now.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] once it has ended.
    pub fn summary(&self) -> Result<Summary> {
        let text = self.read("status")?;
        let status: Status = procfile::parse(&self.subject("status"), &text)?;
        let stat: Stat = procfile::parse(&self.subject("stat"), &self.read("stat")?)?;
        let sigkill = 1 << (libc::SIGKILL - 1);
        let kib = |value: Option<u64>| Bytes::from_kib(value.unwrap_or(0));
        Ok(Summary {
            state: status.state.chars().next().unwrap_or('?'),
            has_memory: status.vmsize.is_some(),
            is_kernel_thread: stat.flags & PF_KTHREAD != 0,
            stack_start: stat.startstack,
            killed: (status.sigpnd | status.shdpnd) & sigkill != 0,
            rss: kib(status.vmrss),
            rss_anon: kib(status.rssanon),
            rss_shmem: kib(status.rssshmem),
            page_tables: kib(status.vmpte),
            comm: name_in(&text),
        })
    }

    /// Its mappings, by address.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] once it has ended; `EACCES` without the right to trace it.
    pub fn mappings(&self) -> Result<Vec<Mapping>> {
        maps::parse(&self.subject("maps"), &self.read("maps")?)
    }

    /// The size of the pages of its mapping that holds `page`.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.11; `ENOENT` where nothing is mapped.
    pub fn page_size_at(&self, page: PageIdx) -> Result<Bytes> {
        let maps = procfile::open_at(&self.directory, "maps");
        let size = maps.and_then(|maps| procmap::page_size(maps, page));
        size.map_err(|e| Error::os("query", format!("{} at {page}", self.subject("maps")), e))
    }

    /// Opens its `pagemap`, which keeps meaning the present address space.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] once it has ended; `EACCES` without the right to trace it.
    pub fn pagemap(&self) -> Result<Pagemap> {
        let file = procfile::open_at(&self.directory, "pagemap")
            .map_err(|e| self.error("open", "pagemap", e.into()))?;
        Ok(Pagemap::new(file, self.subject("pagemap")))
    }

    /// Its cgroups, one of each hierarchy (cgroups(7)).
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] once it has ended.
    pub fn cgroups(&self) -> Result<ProcessCGroups> {
        procfile::parse(&self.subject("cgroup"), &self.read("cgroup")?)
    }

    /// Resident memory of a process whose first thread has ended before the others: the largest
    /// that one of its threads still shows.
    #[must_use]
    pub fn threads_rss(&self) -> Bytes {
        let Ok(threads) = fs::read_dir(self.subject("task")) else {
            return Bytes::ZERO;
        };
        let rss = |directory: fs::DirEntry| {
            let status: Status = procfile::read_parsed(&directory.path().join("status")).ok()?;
            status.vmrss.map(Bytes::from_kib)
        };
        threads.flatten().filter_map(rss).max().unwrap_or(Bytes::ZERO)
    }

    /// Whether the process with the number `other` has the same address space (kcmp(2)). Where that
    /// cannot be asked, they are taken for different.
    #[must_use]
    pub fn shares_memory_with(&self, other: i32) -> bool {
        kcmp::same_address_space(self.pid, other)
    }

    fn subject(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        procfile::read_at(&self.directory, name).map_err(|e| self.error("read", name, e))
    }

    fn error(&self, operation: &'static str, name: &str, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Error::NoSuchProcess(self.pid),
            _ => Error::os(operation, self.subject(name), error),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// `PF_KTHREAD` (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The name in a `status` file, colons and odd bytes included.
fn name_in(status: &[u8]) -> String {
    let line = status.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let name = line.strip_prefix(b"Name:\t").unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The numbers of all processes, ascending.
///
/// # Errors
/// Where `/proc` cannot be listed.
pub fn all_pids() -> Result<Vec<i32>> {
    let list = fs::read_dir(Path::new("/proc")).map_err(|e| Error::os("list", "/proc", e))?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut pids: Vec<i32> = list.flatten().filter_map(number).collect();
    pids.sort_unstable();
    Ok(pids)
}
