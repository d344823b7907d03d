//! `recoup`: gives memory that was freed back to whoever can use it next.

mod args;
mod commands;
mod show;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use commands::Done;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Report(args) => commands::report::run(args),
        Command::Reclaim(args) => commands::reclaim::run(args),
        Command::Pool(args) => commands::pool::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Demo => commands::demo::run(),
        Command::DemoWorkload => commands::demo::workload::run(),
        Command::Schema => commands::schema::run(),
        Command::Completions(args) => commands::documents::completions(args),
        Command::Man(args) => commands::documents::man_pages(args),
    };
    match done {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::NotAll) => ExitCode::FAILURE,
        // Whoever reads the output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("recoup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
