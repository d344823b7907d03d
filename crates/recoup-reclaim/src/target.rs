//! Which processes are meant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use recoup_sys::cgroup::{Cgroup, Hierarchy};
use recoup_sys::process::{self, Summary};
use recoup_sys::{Bytes, Process};

/// What the user named.
#[derive(Clone, Debug)]
pub enum Target {
    /// Processes by their numbers.
    Pids(Vec<i32>),
    /// Processes that are held open, so that their numbers cannot come to mean others.
    Open(Vec<Arc<Process>>),
    /// All processes of a cgroup and its children.
    Cgroup(PathBuf),
    /// All processes of the host.
    All,
}

/// A target that cannot be meant. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The kernel was asked and refused.
    #[error(transparent)]
    Kernel(#[from] recoup_sys::Error),
    /// A cgroup was named on a host without memory accounting.
    #[error("no mounted cgroup hierarchy has the memory controller: name processes with --pid")]
    NoHierarchy,
    /// The path is no cgroup of the hierarchy that accounts memory.
    #[error("{path} is no memory cgroup: name a directory below {root} ({source})")]
    NoCgroup {
        /// What was named.
        path: String,
        /// Where cgroups are.
        root: String,
        /// What the kernel said.
        source: recoup_sys::Error,
    },
}

/// A process that a target stands for.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// Still to be opened.
    Number(i32),
    /// Open.
    Process(Arc<Process>),
}

impl Candidate {
    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match self {
            Self::Number(pid) => *pid,
            Self::Process(process) => process.pid(),
        }
    }

    /// Opens it, unless it is.
    ///
    /// # Errors
    /// [`recoup_sys::Error::NoSuchProcess`] if there is none.
    pub fn open(&self) -> recoup_sys::Result<Arc<Process>> {
        match self {
            Self::Process(process) => Ok(Arc::clone(process)),
            Self::Number(pid) => Process::open(*pid).map(Arc::new),
        }
    }
}

/// The processes that a target stands for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The processes, each once.
    pub candidates: Vec<Candidate>,
    /// The cgroups that were named, whose charge is to be shown even if no process is in them.
    pub cgroups: Vec<Cgroup>,
    /// Whether each number was named by the user: then it is an error if it can't be looked at.
    pub naming: Naming,
}

/// Whether the user named the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Each one was.
    ByNumber,
    /// They were found; some may end meanwhile, or be kernel threads.
    #[default]
    Found,
}

impl Target {
    /// Finds the processes. This process is never among those found.
    ///
    /// # Errors
    /// [`TargetError`] where a cgroup doesn't exist or processes cannot be listed.
    pub fn select(&self, hierarchy: Option<&Hierarchy>) -> Result<Selection, TargetError> {
        let mut selection = match self {
            Self::Pids(pids) => Selection { naming: Naming::ByNumber, ..Selection::of(pids) },
            Self::Open(processes) => Selection {
                candidates: processes.iter().cloned().map(Candidate::Process).collect(),
                ..Selection::default()
            },
            Self::Cgroup(path) => of_cgroup(path, hierarchy.ok_or(TargetError::NoHierarchy)?)?,
            Self::All => Selection::of(&process::all_pids()?),
        };
        if selection.naming == Naming::Found {
            let own = i32::try_from(std::process::id()).ok();
            selection.candidates.retain(|candidate| Some(candidate.pid()) != own);
        }
        selection.candidates.sort_by_key(Candidate::pid);
        selection.candidates.dedup_by_key(|candidate| candidate.pid());
        Ok(selection)
    }
}

impl Selection {
    fn of(pids: &[i32]) -> Self {
        let candidates = pids.iter().copied().map(Candidate::Number).collect();
        Self { candidates, ..Self::default() }
    }
}

fn of_cgroup(path: &Path, hierarchy: &Hierarchy) -> Result<Selection, TargetError> {
    let cgroup = hierarchy.open(path).map_err(|source| TargetError::NoCgroup {
        path: path.display().to_string(),
        root: hierarchy.root().display().to_string(),
        source,
    })?;
    // A child may be removed while its processes are listed: it has none then.
    let groups = cgroup.with_descendants();
    let pids: Vec<i32> = groups.iter().flat_map(|g| g.pids().unwrap_or_default()).collect();
    Ok(Selection { cgroups: vec![cgroup], ..Selection::of(&pids) })
}

/// Opens a process that is to be looked at. Nothing if there is nothing to look at.
///
/// # Errors
/// One clear sentence where the process was named and cannot be looked at.
pub fn open(candidate: &Candidate, naming: Naming) -> Result<Option<Arc<Process>>, String> {
    match candidate.open().and_then(|process| Ok((process.summary()?, process))) {
        Ok((summary, process)) if summary.has_memory => Ok(Some(process)),
        Ok(_) if naming == Naming::Found => Ok(None),
        Ok((summary, process)) => Err(without_memory(&process, &summary)),
        Err(error) if error.is_gone() && naming == Naming::Found => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Why a process has no memory to look at.
fn without_memory(process: &Process, summary: &Summary) -> String {
    let what = format!("process {} ({})", process.pid(), summary.comm);
    if summary.is_kernel_thread {
        format!("{what} is a kernel thread and has no memory of its own: name a program's process")
    } else if process.threads_rss() > Bytes::ZERO {
        format!("{what} cannot be looked at: its first thread has ended, others keep its memory")
    } else {
        format!("{what} has ended and waits for its parent: it has no memory any more")
    }
}
