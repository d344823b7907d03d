//! A program with a companion lives as without one.

use std::time::Duration;

use crate::common::{CGROUP, Victim, eventually, proc_file};
use recoup_testkit::{kernel, require};

#[test]
fn the_companion_has_nothing_of_the_program_but_its_memory() {
    require!(kernel::is_root(), "root");
    let victim = Victim::start("apart");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    let own = victim.program.pid();
    std::fs::write(format!("/proc/{own}/oom_score_adj"), "123").expect("a score");
    victim.program.tell("map 8 base");
    victim.arm();
    let companion = victim.companion;
    assert_eq!(proc_file(companion, "comm").trim_end(), format!("recoup/{own}"));
    assert_eq!(proc_file(companion, "cgroup"), proc_file(own, "cgroup"));
    assert_eq!(proc_file(companion, "oom_score_adj").trim_end(), "123");
    let link =
        |name: &str| std::fs::read_link(format!("/proc/{companion}/{name}")).expect("a link");
    assert_eq!(link("cwd").to_str(), Some("/"));
    let descriptors = std::fs::read_dir(format!("/proc/{companion}/fd")).expect("descriptors");
    let mut descriptors: Vec<String> = descriptors
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .map(|fd| link(&format!("fd/{fd}")).to_string_lossy().into_owned())
        .map(|target| target.split(':').next().unwrap_or_default().to_owned())
        .collect();
    descriptors.sort();
    // A pidfd is `anon_inode:[pidfd]`, or since Linux 6.9 `pidfd:[...]`.
    assert!(descriptors == ["anon_inode", "pipe"] || descriptors == ["pidfd", "pipe"]);
    let session = |pid| proc_file(pid, "stat").split(' ').nth(5).map(str::to_owned);
    assert_eq!(session(companion), Some(companion.to_string()));
    assert_ne!(session(own), session(companion));
}

#[test]
fn waiting_for_children_never_finds_the_companion() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("wait", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    assert_eq!(victim.program.tell("wait"), "No child processes (os error 10)");
    crate::common::kill(victim.companion);
    assert_eq!(victim.program.tell("wait"), "No child processes (os error 10)");
}

#[test]
fn a_forked_child_has_no_companion_and_ends_none() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("forked", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    assert_eq!(victim.program.tell("forked"), "alive false wrong 0");
    assert_eq!(victim.program.tell("alive"), "true");
}

#[test]
fn a_second_one_is_refused() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("twice", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    let refusal = victim.program.tell("arm-again");
    let expected = format!("this process has a companion already: process {}", victim.companion);
    assert_eq!(refusal, expected);
}

#[test]
fn a_disarmed_companion_is_gone_and_another_can_be_armed() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("disarm", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    for _ in 0..20 {
        victim.program.tell("disarm");
        assert_eq!(proc_file(victim.companion, "stat"), "");
        assert_eq!(victim.program.tell("check"), "0");
        victim.arm();
    }
    victim.program.kill();
    victim.all_is_back();
}

#[test]
fn closing_all_descriptors_is_no_execve() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("close-all", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("close-all");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(victim.program.tell("check"), "0");
    assert_eq!(victim.program.tell("alive"), "true");
    victim.program.kill();
    victim.all_is_back();
}

#[test]
fn two_programs_have_nothing_to_do_with_each_other() {
    require!(kernel::is_root(), "root");
    let (one, other) = (Victim::armed("one", "base"), Victim::armed("other", "base"));
    require!(one.is_some() && other.is_some(), CGROUP);
    let (mut one, mut other) = (one.expect("just checked"), other.expect("just checked"));
    one.program.kill();
    one.all_is_back();
    assert_eq!(other.program.tell("check"), "0");
    assert_eq!(other.program.tell("alive"), "true");
    other.program.kill();
    other.all_is_back();
}

#[test]
fn a_task_runs_as_long_as_the_program_lives() {
    require!(kernel::is_root(), "root");
    let victim = Victim::start("task");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("map 8 base");
    victim.companion = victim.program.tell("arm-task").parse().expect("its number");
    eventually("the task has run", || {
        victim.program.tell("task").parse::<u64>().is_ok_and(|calls| calls > 10)
    });
    victim.program.kill();
    victim.all_is_back();
}
