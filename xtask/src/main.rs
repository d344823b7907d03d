//! recoup's own commands for development: `cargo xtask --help`.

mod command;
mod setup;
mod test;
mod vm;

use clap::{Parser, Subcommand};

/// recoup's own commands for development.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the tests need (Debian packages, as root)
    Setup,
    /// Set up, and run all tests
    Test {
        /// Passed on to the test runner: a filter, or options after `--`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests on stock kernels, in virtual machines
    VmTest(vm::VmTest),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Test { arguments } => setup::run().and_then(|()| test::run_all(&arguments)),
        Task::VmTest(arguments) => vm::run(&arguments),
    }
}
