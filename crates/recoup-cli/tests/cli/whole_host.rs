//! `report --all`: every process, the host, and nothing of recoup's own.

use recoup_testkit::{Workload, kernel, require};

use crate::{document, recoup, text};

#[test]
fn all_processes_are_reported_but_recoup_itself() {
    require!(kernel::is_root(), "root");
    let workload = Workload::start();
    let report = document(&["report", "--json"]);
    let processes = report["processes"].as_array().expect("a list");
    assert!(
        processes
            .iter()
            .any(|process| process["pid"] == workload.pid())
    );
    assert!(!processes.iter().any(|process| process["comm"] == "recoup"));
    assert!(report["host"]["anonymous_bytes"].as_u64() > Some(0));
}

#[test]
fn a_process_with_a_name_that_is_no_text_is_reported_like_any_other() {
    require!(kernel::is_root(), "root");
    let mut workload = Workload::start();
    workload.tell("rename");
    let report = document(&["report", "--json"]);
    let processes = report["processes"].as_array().expect("a list");
    assert!(
        processes
            .iter()
            .any(|process| process["pid"] == workload.pid())
    );
    let table = text(&recoup(&["report", "--pid", &workload.pid().to_string()]).stdout);
    assert!(!table.contains('\u{1b}'), "{table}");
}
