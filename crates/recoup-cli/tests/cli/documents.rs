//! What the program says about itself: help, manual pages, completions, doctor, demo.

use recoup_testkit::{kernel, require};

use crate::{document, recoup, text};

#[test]
fn manual_pages_and_completions_are_generated_for_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display().to_string();
    assert!(recoup(&["man", &path]).status.success());
    for page in ["recoup.1", "recoup-report.1", "recoup-reclaim.1", "recoup-doctor.1"] {
        assert!(directory.path().join(page).is_file(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&recoup(&["completions", shell]).stdout).contains("reclaim"), "{shell}");
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
}

#[test]
fn the_demonstration_succeeds_and_leaves_nothing_behind() {
    require!(kernel::is_root(), "root");
    let output = recoup(&["demo"]);
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{printed}{errors}");
    assert!(printed.contains("all intact"), "{printed}");
    let hierarchy = recoup_sys::cgroup::Hierarchy::find().expect("the mounts");
    let groups = hierarchy.map(|h| std::fs::read_dir(h.root()).expect("cgroups"));
    let left = groups
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("recoup-demo-"));
    assert_eq!(left.count(), 0);
}
