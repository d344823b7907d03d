//! The table of kernels and mechanisms in the documentation.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::results::{Feature, Outcome};
use super::run::Report;

const HEAD: &str = "\
# Kernels

Written by `cargo xtask vm-test --write-table`, which boots stock kernels of Debian, runs
`recoup doctor --json` and the tests there as root on cgroup v2, and notes what they say.

";

/// Build options that change what can be seen or freed.
const OPTIONS: [&str; 3] = ["NO_PAGE_MAPCOUNT", "PT_RECLAIM", "MEMORY_HOTPLUG"];

/// Writes the document.
pub(crate) fn write(path: &Path, reports: &[Report]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, document(reports))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn document(reports: &[Report]) -> String {
    let mut text = HEAD.to_owned();
    mechanisms(&mut text, reports);
    options(&mut text, reports);
    tests(&mut text, reports);
    text
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn header(text: &mut String, cells: &[String]) {
    row(text, cells);
    row(text, &vec!["---".to_owned(); cells.len()]);
}

/// What `recoup doctor` found, with the reasons numbered below the table.
fn mechanisms(text: &mut String, reports: &[Report]) {
    text.push_str("## What works\n\n");
    let features = |report: &Report| {
        let doctor = report.results.doctor.as_ref();
        doctor.map(|doctor| doctor.features.clone()).unwrap_or_default()
    };
    let names: Vec<String> = reports
        .iter()
        .map(features)
        .find(|all| !all.is_empty())
        .unwrap_or_default()
        .into_iter()
        .map(|feature| feature.name)
        .collect();
    let mut cells = vec!["kernel".to_owned(), "guest".to_owned()];
    cells.extend(names.iter().map(|name| name.replace('_', " ")));
    header(text, &cells);
    let mut reasons: Vec<String> = Vec::new();
    for report in reports {
        let found = features(report);
        let mut cells = vec![kernel(report), report.guest.to_owned()];
        cells.extend(names.iter().map(|name| {
            let feature = found.iter().find(|feature| feature.name == *name);
            feature.map_or("?".to_owned(), |feature| answer(feature, &mut reasons))
        }));
        row(text, &cells);
    }
    text.push('\n');
    for (index, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}", index + 1);
    }
    text.push('\n');
}

fn kernel(report: &Report) -> String {
    let doctor = report.results.doctor.as_ref();
    doctor.map_or(report.kernel.version.clone(), |doctor| doctor.kernel.clone())
}

fn answer(feature: &Feature, reasons: &mut Vec<String>) -> String {
    if feature.works {
        return "yes".to_owned();
    }
    let why = feature.why.clone().unwrap_or_default();
    let known = reasons.iter().position(|reason| *reason == why);
    let index = known.unwrap_or_else(|| {
        reasons.push(why);
        reasons.len() - 1
    });
    format!("no ({})", index + 1)
}

/// How the kernels were built, once for each.
fn options(text: &mut String, reports: &[Report]) {
    text.push_str("## How the kernels were built\n\n");
    let names = OPTIONS.map(|option| format!("`CONFIG_{option}`"));
    header(text, &[&["kernel".to_owned()], names.as_slice()].concat());
    let mut done: Vec<&str> = Vec::new();
    for report in reports {
        if done.contains(&report.kernel.version.as_str()) {
            continue;
        }
        done.push(&report.kernel.version);
        let mut cells = vec![report.kernel.version.clone()];
        cells.extend(OPTIONS.iter().map(|option| match report.kernel.built_with(option) {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "?".to_owned(),
        }));
        row(text, &cells);
    }
    text.push('\n');
}

fn tests(text: &mut String, reports: &[Report]) {
    text.push_str("## What the tests say\n\n");
    header(text, &["kernel", "guest", "passed", "failed", "skipped"].map(ToOwned::to_owned));
    let mut notes = Vec::new();
    for report in reports {
        let (passed, failed, skipped) = report.results.counts();
        let counts = [passed, failed, skipped].map(|count| count.to_string());
        let names = [kernel(report), report.guest.to_owned()];
        row(text, &[names.as_slice(), counts.as_slice()].concat());
        let place = format!("{}, {}", names[0], names[1]);
        for test in &report.results.tests {
            match &test.outcome {
                Outcome::Passed => {}
                Outcome::Failed => notes.push(format!("{place}: `{}` failed", test.name)),
                Outcome::Skipped(reason) => {
                    notes.push(format!("{place}: `{}` was skipped: {reason}", test.name));
                }
            }
        }
        notes.extend(report.results.problems.iter().map(|words| format!("{place}: {words}")));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
}
