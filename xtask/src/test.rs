//! Runs all tests, with cargo-nextest where it is installed.

use crate::command::{cargo, exists, run};

pub(crate) fn run_all(arguments: &[String]) -> anyhow::Result<()> {
    // The workloads, `recoup` itself, and the library for C, which tests start and link.
    run(cargo().args(["build", "--workspace"]))?;
    if exists("cargo-nextest") {
        run(cargo().args(["nextest", "run", "--workspace"]).args(arguments))?;
    } else {
        run(cargo().args(["test", "--workspace", "--bins", "--lib", "--tests"]).args(arguments))?;
    }
    run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}
