//! The JSON interface: its schema, and that what it says is true.

use std::path::PathBuf;

use recoup_testkit::workload::{charge, own_cgroup};
use recoup_testkit::{HostSetting, Workload, kernel, require};
use serde_json::Value;

use crate::{document, recoup, text};

/// The schema that is in the repository.
const SCHEMA: &str = include_str!("../../../../docs/recoup-1.schema.json");

fn assert_valid(document: &Value) {
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    assert_satisfies(&schema, document);
}

/// Holds a document against a definition of the schema.
pub(crate) fn assert_valid_as(definition: &str, document: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    assert!(schema["$defs"][definition].is_object(), "{definition}");
    let reference = format!("#/$defs/{definition}");
    let schema = serde_json::json!({ "$ref": reference, "$defs": schema["$defs"] });
    assert_satisfies(&schema, document);
}

fn assert_satisfies(schema: &Value, document: &Value) {
    let validator = jsonschema::validator_for(schema).expect("the schema is one");
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|e| format!("{} at {}", e, e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_schema_in_the_repository_is_the_programs_own() {
    let printed = text(&recoup(&["schema"]).stdout);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/recoup-1.schema.json");
    assert!(printed == SCHEMA, "cargo run -- schema > {}", file.display());
}

#[test]
fn the_validator_would_notice_a_missing_member() {
    let mut document = document(&["report", "--json", "--pid", &std::process::id().to_string()]);
    assert_valid(&document);
    document["totals"]["stuck"].as_object_mut().expect("an object").remove("thp_holes_bytes");
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    assert!(!jsonschema::is_valid(&schema, &document));
}

#[test]
fn report_dry_run_and_reclaim_print_valid_documents_that_agree_with_the_kernel() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let cgroup = own_cgroup("json");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    let mut workload = Workload::start_in(&cgroup);
    workload.map("map a 16384 huge");
    workload.tell("fill a");
    workload.tell("discard a 2 510 512 32");
    let (pid, path) = (workload.pid().to_string(), cgroup.path().display().to_string());
    let holes = 32 * 510 * 4096;

    let report = document(&["report", "--json", "--pid", &pid]);
    assert_valid(&report);
    assert_eq!(report["schema"], 1);
    let process = &report["processes"][0];
    assert_eq!(process["pid"], workload.pid());
    assert_eq!(process["stuck"]["thp_holes_bytes"], holes);
    assert_eq!(process["rss_bytes"], kernel::status_bytes(workload.pid(), "VmRSS"));
    assert_eq!(process["page_tables_bytes"], kernel::status_bytes(workload.pid(), "VmPTE"));
    assert!(process.get("recovered").is_none());

    let dry_run = document(&["reclaim", "--json", "--dry-run", "--pid", &pid]);
    assert_valid(&dry_run);
    assert_eq!(dry_run["processes"][0]["plan"][0]["splits"], 32);
    assert_eq!(dry_run["totals"]["recovered"]["thp_holes_bytes"], 0);

    let before = charge(&cgroup);
    let reclaim = document(&["reclaim", "--json", "--cgroup", &path]);
    assert_valid(&reclaim);
    assert_eq!(reclaim["totals"]["recovered"]["thp_holes_bytes"], holes);
    let group = &reclaim["cgroups"][0];
    assert_eq!(group["path"], path);
    let number = |value: &Value| value.as_u64().expect("a number");
    let told = number(&group["charged_bytes_before"]) - number(&group["charged_bytes_after"]);
    let seen = before - charge(&cgroup);
    assert!(told.abs_diff(seen) < 1 << 20, "{told} told, {seen} seen");
    assert!(seen * 100 >= holes * 95, "{seen} of {holes}");
    assert!(number(&group["unexplained_bytes"]) * 100 >= holes * 95, "{group}");
}

#[test]
fn watching_prints_one_valid_document_a_line() {
    use std::io::{BufRead, BufReader};
    require!(kernel::is_root(), "root");
    let workload = Workload::start();
    let mut recoup = std::process::Command::new(recoup_testkit::workload::built("recoup"))
        .args(["reclaim", "--json", "--watch", "10ms", "--pid", &workload.pid().to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("recoup starts");
    let lines = BufReader::new(recoup.stdout.take().expect("its output")).lines();
    for line in lines.take(3) {
        assert_valid(&serde_json::from_str(&line.expect("a line")).expect("a document"));
    }
    recoup.kill().expect("a child that was not reaped");
    recoup.wait().expect("a child");
}
