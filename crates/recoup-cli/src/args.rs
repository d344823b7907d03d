//! The command line.

pub(crate) mod pool;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Gives memory that was freed back to whoever can use it next.
#[derive(Debug, Parser)]
#[command(name = "recoup", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show freed memory that is stuck in processes; changes nothing
    Report(ReportArgs),
    /// Give it back
    #[command(mut_group("target", |group| group.required(true)))]
    Reclaim(ReclaimArgs),
    /// Look after pools of huge pages, and what their struct pages cost
    Pool(pool::PoolArgs),
    /// Say what this kernel and these privileges allow, and what to do about the rest
    Doctor(DoctorArgs),
    /// Show the whole job on an embedded workload, in under a minute
    Demo,
    /// The workload that `demo` starts
    #[command(hide = true)]
    DemoWorkload,
    /// Print the JSON schema of what --json prints
    Schema,
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// Which processes are meant.
#[derive(Args, Debug, Default)]
#[group(id = "target", multiple = false)]
pub(crate) struct TargetArgs {
    /// A process by its number; may be repeated
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Vec<i32>,
    /// All processes of a cgroup (v1 or v2) and its children
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// All processes
    #[arg(long)]
    pub(crate) all: bool,
}

/// How to look.
#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// Look at the flags of every page, so that lazily freed runs under 256 KiB that lie alone are
    /// found too; slower
    #[arg(long)]
    pub(crate) exact: bool,
    /// Worker threads [default: one for each CPU]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
    /// List the mappings with something stuck in them
    #[arg(long)]
    pub(crate) mappings: bool,
    /// Draw the address space of one process (--pid): on the terminal, or as a picture (SVG)
    #[arg(
        long,
        value_name = "FILE.svg",
        num_args = 0..=1,
        require_equals = true,
        requires = "pid",
        conflicts_with = "json"
    )]
    pub(crate) map: Option<Option<PathBuf>>,
}

#[derive(Args, Debug)]
pub(crate) struct ReclaimArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) scan: ScanArgs,
    /// The kinds to give back [default: all]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(crate) only: Vec<KindArg>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave alone what is smaller than this: a hole of a huge page, or a lazily freed run
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub(crate) min_bytes: ByteSize,
    /// How long one request may keep a process's mmap lock
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = humantime::parse_duration)]
    pub(crate) max_pause: Duration,
    /// Do it again and again, with this much time between; JSON has one object a line then
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) watch: Option<Duration>,
}

/// A kind of stuck memory.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindArg {
    /// Charged but unmapped parts of huge pages
    ThpHoles,
    /// Lazily freed pages (MADV_FREE)
    Lazyfree,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Where to write them
    pub(crate) directory: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
