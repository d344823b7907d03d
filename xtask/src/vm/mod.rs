//! Virtual machines: the project's kernel-facing tests on kernels that users run.
//!
//! Each step is a file, and data flows down: `apt` fetches packages, `kernel` makes a kernel of
//! them, `build` and `initramfs` make what runs on it, `machine` describes a guest and `boot` runs
//! it, `results` reads what its tests say, `skips` knows which of them may be left out, `matrix`
//! says which guests there are, `table` keeps their answers in the documentation.

mod accelerator;
mod apt;
mod boot;
mod build;
mod guest;
mod initramfs;
mod kernel;
mod machine;
mod matrix;
mod results;
mod run;
mod skips;
mod table;

use std::time::Duration;

use clap::Args;

/// Boots kernels in QEMU and runs the tests there.
#[derive(Debug, Args)]
pub(crate) struct VmTest {
    /// Only this kernel: 6.1, 6.12, newest, or the path of a vmlinuz (may be repeated)
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Only this guest of the matrix: default, numa, gigabytes, reserved or small-memory (may be repeated)
    #[arg(long, value_name = "NAME")]
    guest: Vec<String>,
    /// Run this shell command in the guests, with recoup and busybox at hand, instead of the tests
    #[arg(long, value_name = "COMMAND", conflicts_with = "filter")]
    run: Option<String>,
    /// Seconds after which a guest is ended and has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 1500)]
    timeout: u64,
    /// How often a guest with failures is run again; the last run counts
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    retries: u32,
    /// Write the answers of the whole matrix to docs/kernels.md
    #[arg(long, conflicts_with_all = ["kernel", "guest", "run", "filter"])]
    write_table: bool,
    /// Only tests whose names contain this
    #[arg(value_name = "TEST-FILTER")]
    filter: Option<String>,
}

impl VmTest {
    fn time_limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Programs that the rig starts, and the packages that have them.
const NEEDED: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("apt-get", "apt")];

/// Runs the matrix, or what of it was asked for.
pub(crate) fn run(arguments: &VmTest) -> anyhow::Result<()> {
    crate::setup::install(&NEEDED)?;
    run::run(arguments)
}
