//! `report --all`: every process, the host, and nothing of recoup's own.

use std::process::{Command, Stdio};

use recoup_sys::units::BLOCK;
use recoup_testkit::workload::built;
use recoup_testkit::{HugePages, Workload, kernel, require};

use crate::{document, recoup, text};

#[test]
fn all_processes_are_reported_but_recoup_itself() {
    require!(kernel::is_root(), "root");
    let workload = Workload::start();
    let recoup = Command::new(built("recoup"))
        .args(["report", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("recoup starts");
    let own_pid = recoup.id();
    let output = recoup.wait_with_output().expect("its output").stdout;
    let report: serde_json::Value = serde_json::from_slice(&output).expect("a document");
    let processes = report["processes"].as_array().expect("a list");
    assert!(processes.iter().any(|process| process["pid"] == workload.pid()));
    assert!(!processes.iter().any(|process| process["pid"] == own_pid));
    assert!(report["host"]["anonymous_bytes"].as_u64() > Some(0));
}

#[test]
fn a_process_with_a_name_that_is_no_text_is_reported_like_any_other() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    workload.tell("rename");
    let report = document(&["report", "--json"]);
    let processes = report["processes"].as_array().expect("a list");
    assert!(processes.iter().any(|process| process["pid"] == workload.pid()));
    let table = text(&recoup(&["report", "--pid", &workload.pid().to_string()]).stdout);
    assert!(!table.contains('\u{1b}'), "{table}");
}

#[test]
fn a_process_whose_first_thread_has_ended_is_shown_as_dying_with_what_it_holds() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    workload.map("map a 4096 base");
    workload.tell("fill a");
    workload.tell("leave");
    while state_of(workload.pid()) != 'Z' {
        std::thread::yield_now();
    }
    let report = document(&["report", "--json"]);
    let dying = report["host"]["dying"].as_array().expect("a list");
    let found = dying.iter().find(|process| process["pid"] == workload.pid());
    let rss = found.and_then(|process| process["rss_bytes"].as_u64()).expect("the process");
    assert!(rss >= 4096 * 4096, "{rss}");
}

fn state_of(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("a state")
}

#[test]
fn idle_hugetlb_pages_are_shown_with_what_their_struct_pages_cost() {
    require!(kernel::is_root(), "root");
    let pages = HugePages::reserve(&[(BLOCK, 3)]);
    require!(pages.is_ok(), "three free 2 MiB pages");
    let report = document(&["report", "--json", "--pid", &std::process::id().to_string()]);
    let pools = report["host"]["hugetlb_pools"].as_array().expect("a list");
    let pool = pools.iter().find(|pool| pool["page_bytes"] == BLOCK.0).expect("the pool");
    let total = kernel::hugetlb(BLOCK.0, "nr_hugepages").expect("the pool");
    let idle = pool["idle_bytes"].as_u64().expect("a number");
    assert!(3 * BLOCK.0 <= idle && idle <= total * BLOCK.0, "{idle}");
    assert_eq!(pool["struct_pages_plain_bytes"], total * 512 * 64);
    assert_eq!(pool["struct_pages_optimised_bytes"], total * 4096);
}
