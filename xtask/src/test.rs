//! Runs all tests, with cargo-nextest where it is installed.

use crate::command::{cargo, exists, run};

pub(crate) fn run_all(arguments: &[String]) -> anyhow::Result<()> {
    // The workloads, `recoup` itself, and the library for C, which tests start and link.
    run(cargo().args(["build", "--workspace", ALL]))?;
    if exists("cargo-nextest") {
        run(cargo().args(["nextest", "run", "--workspace", ALL]).args(arguments))?;
    } else {
        run(cargo()
            .args(["test", "--workspace", ALL, "--bins", "--lib", "--tests"])
            .args(arguments))?;
    }
    run(cargo().args(["test", "--workspace", ALL, "--doc", "--quiet"]))
}

/// What is optional is tested, too.
const ALL: &str = "--all-features";
