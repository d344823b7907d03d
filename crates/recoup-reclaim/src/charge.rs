//! What cgroups are charged for, and how much of it no process's RSS explains.

use std::collections::BTreeMap;
use std::path::PathBuf;

use recoup_sys::cgroup::{Cgroup, Hierarchy};
use recoup_sys::{Bytes, Process};

use crate::target::Candidate;

/// One cgroup's account over a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupOutcome {
    /// Its directory.
    pub path: PathBuf,
    /// Its charge, children included, before anything was done.
    pub charged_before: Option<Bytes>,
    /// Its charge after all was done.
    pub charged_after: Option<Bytes>,
    /// Anonymous RSS of the processes directly in it that were looked at.
    pub rss_anon: Bytes,
    /// Charge that is neither page cache, nor the kernel's own memory, nor mapped by any process:
    /// mostly holes in huge pages.
    pub unexplained: Option<Bytes>,
}

/// The accounts of all cgroups that a run touches.
#[derive(Debug, Default)]
pub struct Ledger {
    hierarchy: Option<Hierarchy>,
    accounts: BTreeMap<Cgroup, CgroupOutcome>,
}

impl Ledger {
    /// An empty ledger for this hierarchy, if the host accounts memory at all.
    #[must_use]
    pub fn new(hierarchy: Option<Hierarchy>) -> Self {
        Self { hierarchy, accounts: BTreeMap::new() }
    }

    /// Opens an account for a cgroup, with its charge as it is now, unless it has one.
    pub fn open(&mut self, cgroup: &Cgroup) {
        self.account(cgroup);
    }

    /// Opens an account for the cgroup of each process that can be opened, before anything is done to
    /// one of them.
    pub fn open_for(&mut self, candidates: &[Candidate]) {
        for process in candidates.iter().filter_map(|candidate| candidate.open().ok()) {
            if let Some(cgroup) = self.cgroup_of(&process) {
                self.account(&cgroup);
            }
        }
    }

    /// Adds a process to the account of its cgroup.
    pub fn enter(&mut self, process: &Process, rss_anon: Bytes) {
        if let Some(cgroup) = self.cgroup_of(process) {
            self.account(&cgroup).rss_anon += rss_anon;
        }
    }

    /// A process that has ended meanwhile, or is outside of what is mounted, has none.
    fn cgroup_of(&self, process: &Process) -> Option<Cgroup> {
        self.hierarchy.as_ref().and_then(|h| h.of_process(process).ok().flatten())
    }

    fn account(&mut self, cgroup: &Cgroup) -> &mut CgroupOutcome {
        self.accounts.entry(cgroup.clone()).or_insert_with(|| {
            let charge = cgroup.charge().ok();
            let explained = cgroup.composition().map(|c| c.anonymous + c.file + c.kernel);
            CgroupOutcome {
                path: cgroup.path().to_owned(),
                charged_before: charge,
                unexplained: charge.zip(explained.ok()).map(|(all, part)| all.saturating_sub(part)),
                ..CgroupOutcome::default()
            }
        })
    }

    /// Reads the charges again and gives the accounts, by path.
    #[must_use]
    pub fn close(self) -> Vec<CgroupOutcome> {
        let after = |(cgroup, account): (Cgroup, CgroupOutcome)| CgroupOutcome {
            charged_after: cgroup.charge().ok(),
            ..account
        };
        self.accounts.into_iter().map(after).collect()
    }
}
