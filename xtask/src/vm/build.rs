//! Builds the tests and programs that go into a guest: statically linked, so that it needs no
//! libraries, optimised a little, since its processor may be an emulated one, and stripped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::guest;
use super::initramfs::GuestFile;
use crate::command::cargo;

/// Named, so that programs for the build itself (macros, build scripts) are not linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The profile in the workspace's `Cargo.toml`.
const PROFILE: &str = "vm";

/// What cargo says of something that it built.
#[derive(Debug, Deserialize)]
struct Artifact {
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// What has nothing to do with a kernel: this crate, and what only counts and plans or needs a compiler.
const NOT_FOR_GUESTS: [&str; 3] = [env!("CARGO_PKG_NAME"), "recoup-core", "recoup-c"];

/// The workspace's tests and programs that ask a kernel, as guests run them.
#[derive(Debug)]
pub(crate) struct Built {
    programs: Vec<GuestFile>,
    tests: Vec<GuestFile>,
}

impl Built {
    /// Builds all of them.
    pub(crate) fn in_directory(target_directory: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for build in [&["build", "--bins"][..], &["test", "--no-run", "--lib", "--bins", "--tests"]]
        {
            files.extend(guest_files(&messages(build, target_directory)?)?);
        }
        // Both builds name the programs.
        files.sort_by(|one, other| one.path().cmp(other.path()));
        files.dedup_by(|one, other| one.path() == other.path());
        let (tests, programs) = files.into_iter().partition(is_test);
        Ok(Self { programs, tests })
    }

    /// The programs, and the tests that a filter leaves: an initramfs with all of them is too much for a
    /// guest with little memory.
    pub(crate) fn for_tests(&self, filter: Option<&str>) -> anyhow::Result<Vec<GuestFile>> {
        let mut files = self.programs.clone();
        for test in &self.tests {
            if match filter {
                Some(filter) => has_tests(test, filter)?,
                None => true,
            } {
                files.push(test.clone());
            }
        }
        Ok(files)
    }
}

fn is_test(file: &GuestFile) -> bool {
    file.path().split('/').next() == Some(guest::TESTS)
}

/// Whether any of a program's tests has a name that contains this: it can be asked here too.
fn has_tests(test: &GuestFile, filter: &str) -> anyhow::Result<bool> {
    let program = test.source().context("a test is a program of the host")?;
    let listed = Command::new(program)
        .args(["--list", "--format", "terse", filter])
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(listed.status.success(), "{} does not list its tests", program.display());
    Ok(!listed.stdout.is_empty())
}

fn messages(build: &[&str], target_directory: &Path) -> anyhow::Result<String> {
    let child = cargo()
        .args(build)
        .args(["--workspace", "--all-features"])
        .args(NOT_FOR_GUESTS.iter().flat_map(|package| ["--exclude", package]))
        .args(["--quiet", "--profile", PROFILE, "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target_directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the tests for the guests do not build: {}", output.status);
    String::from_utf8(output.stdout).context("cargo's messages are not text")
}

fn guest_files(messages: &str) -> anyhow::Result<Vec<GuestFile>> {
    let mut files = Vec::new();
    for line in messages.lines() {
        let artifact: Artifact = serde_json::from_str(line)
            .with_context(|| format!("cargo printed a line that is no message: {line}"))?;
        let Artifact {
            package_id,
            target: Some(target),
            profile: Some(profile),
            executable: Some(executable),
        } = artifact
        else {
            continue;
        };
        let path = if profile.test {
            let package = package_name(&package_id);
            let kind = target.kind.first().map_or("", String::as_str);
            let what = if kind == "lib" || kind == "bin" { kind } else { &target.name };
            format!("{}/{package}.{what}", guest::TESTS)
        } else {
            format!("{}/{}", guest::PROGRAMS, target.name)
        };
        files.push(GuestFile::program(&path, &executable));
    }
    Ok(files)
}

/// The name in a package id: what follows `#`, or the last directory where only the version does.
fn package_name(id: &str) -> &str {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_programs_have_their_places() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///r/crates/sys#0.1.0","target":{"name":"features","kind":["test"]},"profile":{"test":true},"executable":"/t/features-1"}
{"reason":"compiler-artifact","package_id":"path+file:///r/crates/sys#0.1.0","target":{"name":"sys","kind":["lib"]},"profile":{"test":true},"executable":"/t/sys-1"}
{"reason":"compiler-artifact","package_id":"path+file:///r/crates/cli#0.1.0","target":{"name":"recoup","kind":["bin"]},"profile":{"test":false},"executable":"/t/recoup"}
{"reason":"compiler-artifact","package_id":"registry#libc@0.2.1","target":{"name":"libc","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}"#;
        let files = guest_files(messages).unwrap();
        let paths: Vec<&str> = files.iter().map(GuestFile::path).collect();
        assert_eq!(paths, ["tests/sys.features", "tests/sys.lib", "bin/recoup"]);
    }

    #[test]
    fn packages_are_named_by_their_name() {
        assert_eq!(package_name("path+file:///r/crates/recoup-sys#0.1.0"), "recoup-sys");
        assert_eq!(package_name("path+file:///r/x#recoup@0.1.0"), "recoup");
    }
}
