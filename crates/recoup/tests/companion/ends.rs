//! However a program ends, its status is what it would have been, and all its memory comes back.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::common::{CGROUP, MEMORY, MIB, Victim, await_end, eventually, kill, proc_file};
use recoup_testkit::workload::charge;
use recoup_testkit::{HostSetting, Workload, kernel, require};

/// The status of a victim without a companion that ends in the same way.
fn plain_status(how: &str) -> ExitStatus {
    let mut program = Workload::start_program("recoup-victim");
    program.send(&format!("die {how}"));
    program.status()
}

/// Ends an armed victim, and asserts that its parent sees what it would see without a companion.
fn ends_as_without(how: &str, pages: &str) {
    let victim = Victim::armed(how, pages);
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.send(&format!("die {how}"));
    assert_eq!(victim.program.status(), plain_status(how), "{how}");
    assert_eq!(victim.program.rest(), "", "nobody holds its output open");
    victim.all_is_back();
}

#[test]
fn a_return_from_main_is_seen_as_it_is() {
    require!(kernel::is_root(), "root");
    ends_as_without("return", "base");
}

#[test]
fn exit_is_seen_as_it_is() {
    require!(kernel::is_root(), "root");
    ends_as_without("exit", "huge");
}

#[test]
fn crashes_are_seen_as_they_are() {
    require!(kernel::is_root(), "root");
    ends_as_without("segv", "base");
    ends_as_without("abort", "base");
}

#[test]
fn killing_the_process_group_leaves_the_companion_to_its_work() {
    require!(kernel::is_root(), "root");
    ends_as_without("group", "base");
}

#[test]
fn a_killed_program_gives_its_memory_back() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("kill", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    assert_eq!(victim.program.kill().signal(), Some(9));
    assert_eq!(victim.program.rest(), "");
    victim.all_is_back();
}

#[test]
fn without_any_privilege_it_is_the_same() {
    require!(kernel::is_root(), "root, to become somebody else");
    for (who, user) in [("nobody", "65534"), ("rootless", "0")] {
        let victim = Victim::start(who);
        require!(victim.is_some(), CGROUP);
        let mut victim = victim.expect("just checked");
        victim.program.send(&format!("become {who}"));
        let became = victim.program.any_answer();
        require!(became.as_deref() == Ok(user), "user namespaces that anybody may make");
        victim.program.tell(&format!("map {MEMORY} base"));
        victim.arm();
        assert!(charge(&victim.cgroup) > MEMORY * MIB);
        assert_eq!(victim.program.kill().signal(), Some(9));
        victim.all_is_back();
    }
}

#[test]
fn an_oom_kill_ends_both() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("oom", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    let limit = ((MEMORY + 64) * MIB).to_string();
    let write = |file: &str| std::fs::write(victim.cgroup.path().join(file), &limit);
    write("memory.limit_in_bytes").or_else(|_| write("memory.max")).expect("a limit");
    victim.program.send("die out-of-memory");
    assert_eq!(victim.program.status().signal(), Some(9));
    // The OOM killer kills all who use the memory; where the companion was quicker, it exits.
    let status = await_end(victim.companion);
    assert!(status.terminating_signal() == Some(9) || status.exit_status() == Some(0));
    victim.memory_is_back();
}

#[test]
fn killing_the_whole_cgroup_frees_as_without_a_companion() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("cgroup-kill", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    if std::fs::write(victim.cgroup.path().join("cgroup.kill"), "1").is_err() {
        // Version 1 has no such file: what a service manager does then.
        let pids = victim.cgroup.pids().expect("its processes");
        assert_eq!(pids.len(), 2, "{pids:?}");
        pids.into_iter().for_each(kill);
    }
    assert_eq!(victim.program.status().signal(), Some(9));
    assert_eq!(await_end(victim.companion).terminating_signal(), Some(9));
    victim.memory_is_back();
}

/// After an execve the old memory goes while the process, and its new program, live on.
fn exec_gives_memory_back(how: &str, within: Duration) {
    let victim = Victim::armed(how, "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    let began = Instant::now();
    victim.program.send(&format!("die {how}"));
    eventually("the old memory is back", || charge(&victim.cgroup) < 12 * MIB);
    let took = began.elapsed();
    eprintln!("{how}: all back after {took:?}");
    // Emulated guests take their time.
    assert!(took < within * 4, "{took:?}");
    // The new program knows nothing of it, and is not told of its end.
    eventually("the companion has ended", || {
        let stat = proc_file(victim.companion, "stat");
        stat.is_empty() || stat.contains(") Z ")
    });
    assert_eq!(victim.program.tell("wait"), "No child processes (os error 10)");
    victim.program.tell("map 16 base");
    victim.arm();
    victim.program.send("die return");
    assert_eq!(victim.program.status().code(), Some(7));
    victim.all_is_back();
}

#[test]
fn execve_is_noticed_at_once() {
    require!(kernel::is_root(), "root");
    exec_gives_memory_back("exec", Duration::from_millis(200));
}

#[test]
fn execve_is_noticed_soon_where_a_child_hides_it() {
    require!(kernel::is_root(), "root");
    exec_gives_memory_back("exec-held", Duration::from_millis(600));
}

#[test]
fn a_child_forked_before_the_end_keeps_its_memory() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("fork", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.send("die fork");
    assert_eq!(victim.program.status().code(), Some(7));
    assert_eq!(await_end(victim.companion).exit_status(), Some(0));
    assert!(charge(&victim.cgroup) > MEMORY * MIB, "the child has it");
    assert_eq!(victim.program.rest(), "0 wrong in the child\n");
    eventually("the child's memory is back", || charge(&victim.cgroup) < 12 * MIB);
}

#[test]
fn memory_that_a_vforked_child_borrows_is_not_freed() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("vfork", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.send("die vfork");
    assert_eq!(victim.program.answer("vfork"), "borrowed");
    assert_eq!(victim.program.kill().signal(), Some(9));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(150));
        victim.program.send("?");
        assert_eq!(victim.program.answer("?"), "0", "pages of its parent's are wrong");
    }
    victim.program.dismiss();
    victim.all_is_back();
}

#[test]
fn a_daemon_has_no_companion_and_may_arm_its_own() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("daemon", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.send("die daemon");
    let daemon: i32 = victim.program.answer("die daemon").parse().expect("its number");
    assert_eq!(victim.program.status().code(), Some(7));
    assert_eq!(await_end(victim.companion).exit_status(), Some(0));
    assert_eq!(victim.program.tell("alive"), "false");
    assert_eq!(victim.program.tell("check"), "0");
    victim.arm();
    assert_eq!(victim.program.tell("alive"), "true");
    victim.program.dismiss();
    assert_eq!(await_end(daemon).exit_status(), Some(7));
    victim.all_is_back();
}

#[test]
fn the_end_of_the_first_thread_is_not_the_end() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("first-thread", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("die first-thread");
    std::thread::sleep(Duration::from_millis(600));
    victim.program.send("?");
    assert_eq!(victim.program.answer("?"), "0");
    victim.program.dismiss();
    assert_eq!(victim.program.status().code(), Some(7));
    victim.all_is_back();
}

#[test]
fn a_core_dump_is_the_programs_alone() {
    require!(kernel::is_root(), "root");
    let directory = tempfile::tempdir().expect("a directory");
    let pattern = format!("{}/core.%p", directory.path().display());
    let _pattern = HostSetting::set("/proc/sys/kernel/core_pattern", &pattern);
    let dump = |arm: bool| {
        let mut program = Workload::start_program("recoup-victim");
        let pid = rustix::process::Pid::from_raw(program.pid());
        let limit = rustix::process::Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
        rustix::process::prlimit(pid, rustix::process::Resource::Core, limit).expect("a limit");
        program.tell("map 8 base");
        if arm {
            program.tell("arm");
        }
        program.send("die segv");
        let status = program.status();
        assert!(status.core_dumped() && status.signal() == Some(11), "{status:?}");
        let core = directory.path().join(format!("core.{}", program.pid()));
        std::fs::metadata(core).expect("a core file").len()
    };
    let (with, without) = (dump(true), dump(false));
    assert!(with.abs_diff(without) < 64 << 10, "{with} and {without} bytes");
    assert_eq!(std::fs::read_dir(directory.path()).expect("files").count(), 2);
}
