//! A victim with a companion, in a cgroup of its own.

use std::time::{Duration, Instant};

use recoup_sys::cgroup::OwnCgroup;
use recoup_testkit::Workload;
use recoup_testkit::workload::{charge, own_cgroup};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// What a test needs that has a victim.
pub(crate) const CGROUP: &str = "a memory cgroup that can be made";
pub(crate) const MIB: u64 = 1 << 20;
/// What victims map unless a test says otherwise.
pub(crate) const MEMORY: u64 = 160;
/// What may stay charged to an empty cgroup: the kernel's own caches, and files read by the victim.
const REMAINS: u64 = 12 * MIB;
/// The longest that anything here takes, even in an emulated guest beside others.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Victim {
    // Ended before its cgroup is removed.
    pub(crate) program: Workload,
    pub(crate) cgroup: OwnCgroup,
    pub(crate) companion: i32,
}

impl Victim {
    /// A victim without a companion; nothing where no cgroup can be made.
    pub(crate) fn start(name: &str) -> Option<Self> {
        // Orphans come to this process then, which can tell how they ended.
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).expect("a subreaper");
        let cgroup = own_cgroup(&format!("companion-{name}"))?;
        let program = Workload::start_program("recoup-victim");
        cgroup.add(program.pid()).expect("the victim can be moved");
        Some(Self { program, cgroup, companion: 0 })
    }

    /// A victim with memory and a companion.
    pub(crate) fn armed(name: &str, pages: &str) -> Option<Self> {
        let mut victim = Self::start(name)?;
        victim.program.tell(&format!("map {MEMORY} {pages}"));
        victim.arm();
        assert!(charge(&victim.cgroup) > MEMORY * MIB);
        Some(victim)
    }

    pub(crate) fn arm(&mut self) {
        self.companion = self.program.tell("arm").parse().expect("its number");
    }

    /// Asserts that the companion ended by itself, and that all memory is back.
    pub(crate) fn all_is_back(&self) {
        let status = await_end(self.companion);
        assert_eq!(status.exit_status(), Some(0), "the companion: {status:?}");
        self.memory_is_back();
    }

    pub(crate) fn memory_is_back(&self) {
        eventually("all memory is back", || charge(&self.cgroup) < REMAINS);
        eventually("nobody is left", || self.is_empty());
    }

    /// Whether no process is left in the cgroup. Orphans, which came to this process, are reaped.
    pub(crate) fn is_empty(&self) -> bool {
        let left = self.cgroup.pids().expect("its processes");
        for pid in left.iter().copied().filter_map(Pid::from_raw) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        left.is_empty()
    }
}

/// How an orphaned child ended.
pub(crate) fn await_end(pid: i32) -> WaitStatus {
    let number = Pid::from_raw(pid).expect("a number");
    let mut status = None;
    eventually("the companion ends", || {
        // It becomes a child of this process when its program has ended.
        let waited = rustix::process::waitpid(Some(number), WaitOptions::NOHANG);
        status = waited.ok().flatten().map(|(_, status)| status);
        status.is_some()
    });
    status.expect("just seen")
}

pub(crate) fn kill(pid: i32) {
    let number = Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(number, Signal::KILL).expect("it can be killed");
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "in {PATIENCE:?} not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A file of `/proc/PID`, empty once it is gone.
pub(crate) fn proc_file(pid: i32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}
