//! What the program says about itself: help, manual pages, completions, doctor, demo.

use std::process::{Command, Stdio};

use recoup_testkit::workload::built;
use recoup_testkit::{HostSetting, kernel, require};

use crate::{document, recoup, text};

#[test]
fn manual_pages_and_completions_are_generated_for_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display().to_string();
    assert!(recoup(&["man", &path]).status.success());
    for page in [
        "recoup.1",
        "recoup-report.1",
        "recoup-reclaim.1",
        "recoup-doctor.1",
        "recoup-pool-reserve.1",
    ] {
        assert!(directory.path().join(page).is_file(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&recoup(&["completions", shell]).stdout);
        assert!(script.contains("reclaim") && script.contains("optimise"), "{shell}");
    }
}

#[test]
fn doctor_says_of_each_thing_whether_it_works_here() {
    require!(kernel::is_root(), "root");
    let features = document(&["doctor", "--json"]);
    let works = |name: &str| {
        let all = features["features"].as_array().expect("a list");
        let one = all.iter().find(|feature| feature["name"] == name).expect("the feature");
        assert!(one["works"] == true || one["why"].is_string() && one["remedy"].is_string());
        one["works"] == true
    };
    assert!(works("frame_numbers") && works("process_madvise"));
    assert_eq!(works("pagemap_scan"), kernel::version() >= (6, 7));
    assert_eq!(works("empty_tables"), kernel::shows_page_tables());
}

#[test]
fn the_demonstration_succeeds_and_leaves_nothing_behind() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let demo = Command::new(built("recoup"))
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("recoup starts");
    let own_group = format!("recoup-demo-{}", demo.id());
    let output = demo.wait_with_output().expect("its output");
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{printed}{errors}");
    assert!(printed.contains("all intact"), "{printed}");
    assert!(printed.contains("came back to the cgroup's charge"), "{printed}");
    let hierarchy = recoup_sys::cgroup::Hierarchy::find().expect("the mounts");
    require!(hierarchy.is_some(), "a memory cgroup hierarchy");
    assert!(!hierarchy.is_some_and(|h| h.root().join(own_group).exists()));
}
