//! Which processes are meant.

use std::path::{Path, PathBuf};

use recoup_sys::cgroup::{Cgroup, Hierarchy};
use recoup_sys::{Process, process};

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Processes by their numbers.
    Pids(Vec<i32>),
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

/// The processes that a target stands for, as numbers that are still to be opened.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The numbers, each once.
    pub pids: Vec<i32>,
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
            Self::Pids(pids) => {
                Selection { pids: pids.clone(), naming: Naming::ByNumber, ..Selection::default() }
            }
            Self::Cgroup(path) => of_cgroup(path, hierarchy.ok_or(TargetError::NoHierarchy)?)?,
            Self::All => Selection { pids: process::all_pids()?, ..Selection::default() },
        };
        if selection.naming == Naming::Found {
            let own = i32::try_from(std::process::id()).ok();
            selection.pids.retain(|&pid| Some(pid) != own);
        }
        selection.pids.sort_unstable();
        selection.pids.dedup();
        Ok(selection)
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
    let pids = groups.iter().flat_map(|group| group.pids().unwrap_or_default()).collect();
    Ok(Selection { pids, cgroups: vec![cgroup], naming: Naming::Found })
}

/// Opens a process that is to be looked at. Nothing if there is nothing to look at.
///
/// # Errors
/// One clear sentence where the process was named and cannot be looked at.
pub fn open(pid: i32, naming: Naming) -> Result<Option<Process>, String> {
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) if error.is_gone() && naming == Naming::Found => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let summary = match process.summary() {
        Ok(summary) => summary,
        Err(error) if error.is_gone() && naming == Naming::Found => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    match (summary.has_memory, summary.state, naming) {
        (true, ..) => Ok(Some(process)),
        (false, _, Naming::Found) => Ok(None),
        (false, 'Z' | 'X', Naming::ByNumber) => Err(format!(
            "process {pid} ({}) has ended and waits for its parent: it has no memory any more",
            summary.comm
        )),
        (false, _, Naming::ByNumber) => Err(format!(
            "process {pid} ({}) is a kernel thread and has no memory of its own: name a program's \
             process",
            summary.comm
        )),
    }
}
