//! Runs the cells of the matrix one after another, and says how they ended.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::accelerator::Accelerator;
use super::boot::{self, Boot};
use super::build::Built;
use super::kernel::{Kernel, Kernels};
use super::machine::Machine;
use super::matrix::{self, Cell};
use super::results::{Outcome, Reader, Results};
use super::{VmTest, guest, skips, table};

/// What one guest said.
pub(crate) struct Report {
    pub(crate) kernel: Kernel,
    pub(crate) guest: &'static str,
    pub(crate) results: Results,
}

/// The guest's programs, and where it all is.
struct Rig<'a> {
    arguments: &'a VmTest,
    files: Built,
    directory: PathBuf,
    accelerator: Option<Accelerator>,
}

pub(crate) fn run(arguments: &VmTest) -> anyhow::Result<()> {
    let names = matrix::guest_names();
    if let Some(unknown) = arguments.guest.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("no guest named {unknown}: the names are {names:?}");
    }
    let directory = workspace()?.join("target/vm");
    let mut rig =
        Rig { arguments, files: Built::in_directory(&directory)?, directory, accelerator: None };
    let mut kernels = Kernels::new()?;
    let mut reports = Vec::new();
    for cell in matrix::cells(&arguments.kernel, &arguments.guest, arguments.filter.as_deref()) {
        let kernel = kernels.get(&cell.kernel)?;
        reports.push(rig.run_until_passed(&kernel, &cell)?);
    }
    if arguments.write_table {
        table::write(&workspace()?.join("docs/kernels.md"), &reports)?;
    }
    conclude(&reports)
}

impl Rig<'_> {
    /// Runs a guest, and again what failed, as often as was asked for.
    fn run_until_passed(&mut self, kernel: &Kernel, cell: &Cell) -> anyhow::Result<Report> {
        let mut report = self.run(kernel.clone(), cell, "")?;
        for retry in 1..=self.arguments.retries {
            let (_, failed, _) = report.results.counts();
            if failed == 0 {
                break;
            }
            println!("-- {failed} failures: try {} of this guest", retry + 1);
            report = self.run(kernel.clone(), cell, &format!("-try{}", retry + 1))?;
        }
        Ok(report)
    }

    /// Runs a guest; `which` run of it is part of the name of its logs.
    fn run(&mut self, kernel: Kernel, cell: &Cell, which: &str) -> anyhow::Result<Report> {
        let logs = self.directory.join("guests");
        let accelerator = *self
            .accelerator
            .get_or_insert_with(|| Accelerator::probe(&kernel, &logs.join("probe")));
        let machine = self.machine(kernel, cell)?;
        println!(
            "\n== {} ({}), {}: {} CPUs, {} MiB, {}",
            machine.kernel.name,
            machine.kernel.version,
            cell.guest.name,
            machine.cpus,
            machine.memory_mib,
            accelerator.name()
        );
        let directory = logs.join(format!("{}-{}{which}", machine.kernel.name, cell.guest.name));
        let mut attempt = 1;
        let (boot, mut results) = loop {
            let mut reader = Reader::default();
            let mut came_up = false;
            let boot = boot::boot(&machine, accelerator, &directory, &mut |line| {
                came_up = true;
                if reader.line(line) {
                    println!("{line}");
                }
            })?;
            if came_up || attempt == MOST_BOOTS {
                break (boot, reader.finish());
            }
            println!("-- boot {attempt} came to nothing: {}", boot.problems.join("; "));
            attempt += 1;
        };
        results.problems.extend(boot.problems.iter().cloned());
        skips::check(&mut results, &machine.kernel.version, cell.guest.name);
        if self.arguments.run.is_some() && boot.status.is_some_and(|status| status != 0) {
            results.problems.push("the command failed".to_owned());
        }
        summarize(&results, &boot, &directory);
        Ok(Report { kernel: machine.kernel, guest: cell.guest.name, results })
    }

    fn machine(&self, kernel: Kernel, cell: &Cell) -> anyhow::Result<Machine> {
        let script = self.arguments.run.clone().unwrap_or_else(|| {
            let demo = cell.filter.as_deref().is_none_or(|filter| "recoup demo".contains(filter));
            guest::tests(cell.filter.as_deref(), demo)
        });
        Ok(Machine {
            memory_mib: cell.guest.memory_mib,
            numa_nodes: cell.guest.numa_nodes,
            command_line: cell.guest.words(),
            files: self.files.for_tests(cell.filter.as_deref())?,
            script,
            time_limit: self.arguments.time_limit(),
            ..Machine::with(kernel)
        })
    }
}

/// How often a guest is booted that says nothing of its own. The translator of QEMU 7.2 now and then lets a
/// processor run into the breakpoint of code that another one is patching: about one boot in four of
/// Linux 7.2 and 7.3 dies of that (`Oops: int3`) before it has a first process.
const MOST_BOOTS: u32 = 5;

fn summarize(results: &Results, boot: &Boot, directory: &Path) {
    for test in &results.tests {
        match &test.outcome {
            Outcome::Passed => {}
            Outcome::Failed => println!("failed: {}", test.name),
            Outcome::Skipped(reason) => println!("skipped: {}: {reason}", test.name),
        }
    }
    for problem in &results.problems {
        println!("failed: {problem}");
    }
    let (passed, failed, skipped) = results.counts();
    println!(
        "-- {passed} passed, {failed} failed, {skipped} skipped in {:.1} s; logs: {}",
        boot.took.as_secs_f64(),
        directory.display()
    );
}

/// Prints one line for each guest and one for all.
fn conclude(reports: &[Report]) -> anyhow::Result<()> {
    println!();
    let mut all = (0, 0, 0);
    for report in reports {
        let (passed, failed, skipped) = report.results.counts();
        println!(
            "{} ({}), {}: {passed} passed, {failed} failed, {skipped} skipped",
            report.kernel.name, report.kernel.version, report.guest
        );
        all = (all.0 + passed, all.1 + failed, all.2 + skipped);
    }
    println!("{} passed, {} failed, {} skipped", all.0, all.1, all.2);
    ensure!(all.1 == 0, "{} failures in guests", all.1);
    Ok(())
}

fn workspace() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.parent().context("xtask is not in the workspace")?;
    Ok(workspace.to_owned())
}
