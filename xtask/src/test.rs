//! Runs all tests, with cargo-nextest where it is installed.

use crate::command::{cargo, exists, run};

pub(crate) fn run_all(arguments: &[String]) -> anyhow::Result<()> {
    // The workloads and `recoup` itself, which tests of other packages start.
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    if exists("cargo-nextest") {
        run(cargo().args(["nextest", "run", "--workspace"]).args(arguments))?;
    } else {
        run(cargo().args(["test", "--workspace", "--bins", "--lib", "--tests"]).args(arguments))?;
    }
    run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}
