//! Whatever a process does while recoup works on it, and whatever happens to recoup: no value is
//! wrong, and nothing is reported as an error.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{request, run_request, run_with};
use recoup_reclaim::Mode;
use recoup_reclaim::target::Target;
use recoup_testkit::workload::{built, own_cgroup};
use recoup_testkit::{HostSetting, Workload, kernel, require};

/// How often recoup is killed.
const KILLS: u32 = 200;
/// How long the hammers work.
const HAMMERED: Duration = Duration::from_secs(8);

fn hammer_while_reclaiming(thp: &str) {
    let _thp = HostSetting::huge_pages(thp);
    let mut workload = Workload::start();
    workload.tell("hammer 3");
    let (began, mut passes, mut found) = (Instant::now(), 0, 0);
    while began.elapsed() < HAMMERED {
        let outcome = run_with(&workload, |_| {});
        passes += 1;
        // What forked children share at that moment is found and left alone.
        found += (outcome.stuck.thp_holes + outcome.stuck.lazyfree + outcome.shared_holes).0;
    }
    let verdict = workload.tell("stop");
    assert!(verdict.ends_with(" 0 wrong"), "{verdict}");
    let operations: u64 = verdict.split(' ').next().and_then(|n| n.parse().ok()).expect("a count");
    assert!(operations > 0 && passes > 1, "{operations} operations, {passes} passes");
    assert!(found > 0, "something was found in {passes} passes");
}

#[test]
fn no_value_is_wrong_while_huge_pages_are_reclaimed_under_fire() {
    require!(kernel::is_root(), "root");
    hammer_while_reclaiming("always");
}

#[test]
fn no_value_is_wrong_while_base_pages_are_reclaimed_under_fire() {
    require!(kernel::is_root(), "root");
    hammer_while_reclaiming("never");
}

#[test]
fn killing_recoup_at_any_moment_leaves_the_target_unharmed() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("always");
    let mut workload = Workload::start();
    workload.tell("hammer 2");
    let pid = workload.pid().to_string();
    let start = || {
        Command::new(built("recoup"))
            .args(["reclaim", "--json", "--pid", &pid])
            .stdout(Stdio::null())
            .spawn()
            .expect("recoup starts")
    };
    // What a whole run takes here; it is killed at moments spread over a little more than that.
    let began = Instant::now();
    start().wait().expect("a child");
    let whole = began.elapsed();
    let splits = kernel::vmstat("thp_split_page ");
    let (mut ended, mut killed) = (0, 0);
    for round in 0..KILLS {
        let mut recoup = start();
        std::thread::sleep(whole * 3 / 2 * round / KILLS);
        recoup.kill().expect("a child that was not reaped");
        match recoup.wait().expect("a child").code() {
            Some(_) => ended += 1,
            None => killed += 1,
        }
    }
    assert!(killed > 0, "{killed} were killed at work, {ended} had ended");
    assert!(kernel::vmstat("thp_split_page ") > splits, "some got as far as splitting");
    let verdict = workload.tell("stop");
    assert!(verdict.ends_with(" 0 wrong"), "{verdict}");
}

#[test]
fn processes_that_exit_or_exec_meanwhile_are_no_error() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("always");
    let cgroup = own_cgroup("churn");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    let mut everything = request(vec![]);
    everything.target = Target::Cgroup(cgroup.path().to_owned());
    for round in 0..40_u64 {
        let mut workloads: Vec<Workload> = (0..3).map(|_| Workload::start_in(&cgroup)).collect();
        for workload in &mut workloads {
            workload.map("map a 4096 huge");
            workload.tell("fill a");
            workload.tell("discard a 1 511 512 8");
        }
        std::thread::scope(|scope| {
            let reclaimer = scope.spawn(|| run_request(&everything));
            std::thread::sleep(Duration::from_micros(60 * round));
            let mut workloads = workloads.into_iter();
            workloads.next().expect("three").send("exec");
            drop(workloads.next());
            let outcome = reclaimer.join().expect("no panic");
            assert_eq!(outcome.errors().collect::<Vec<_>>(), Vec::<&str>::new());
        });
    }
}

#[test]
fn after_an_exec_the_new_program_is_not_acted_on() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    let process = recoup_sys::Process::open(workload.pid()).expect("it lives");
    let pagemap = process.pagemap().expect("its pagemap");
    workload.tell("exec");
    // When the new program answers, the old address space is gone.
    workload.tell("map a 512 base");
    let mut word = [0];
    let start = recoup_sys::PageIdx::containing(0x1000);
    assert_eq!(pagemap.read(start, &mut word).expect("a read"), 0);
    assert!(run_with(&workload, |request| request.mode = Mode::Report).rss.0 > 0);
}
