//! `recoup demo`: the whole job on a child process with an embedded workload.

pub(crate) mod workload;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use recoup_reclaim::act::Pace;
use recoup_reclaim::plan::{Kind, Policy};
use recoup_reclaim::run::{self, RunOutcome};
use recoup_reclaim::scan::Picture;
use recoup_reclaim::scan::lazyfree::Sampling;
use recoup_reclaim::target::Target;
use recoup_reclaim::{Mode, Request};
use recoup_sys::cgroup::{Hierarchy, OwnCgroup};
use recoup_sys::{Bytes, Features, Process, Support};

use super::Done;
use crate::args::{ScanArgs, TargetArgs};
use crate::show::{human, progress::Progress, table};

/// What of the reported holes has to come back to the cgroup's charge, in percent.
const EXPECTED_PERCENT: u64 = 95;

pub(crate) fn run() -> anyhow::Result<Done> {
    let began = Instant::now();
    let features = Features::probe()?;
    let needed = [&features.frame_numbers, &features.frame_flags, &features.process_madvise];
    if let Some((why, remedy)) = Support::first_missing(needed) {
        bail!("the demonstration cannot run here, since {why}: {remedy}");
    }
    let mut demo = Demo::start()?;
    demo.tell("the child filled a cache, deleted most of it and freed more in other ways")?;

    headline(&format!("recoup report --pid {}", demo.pid));
    let found = demo.pass(Mode::Report, &[], &features)?;
    table::print_report(&found);

    headline(&format!("recoup reclaim --pid {} --only thp-holes", demo.pid));
    let before = demo.charge();
    let split = demo.pass(Mode::Reclaim, &[Kind::ThpHoles], &features)?;
    let after = demo.charge();
    table::print_reclaim(&split);

    headline(&format!("recoup reclaim --pid {}", demo.pid));
    let rest = demo.pass(Mode::Reclaim, &Kind::ALL, &features)?;
    table::print_reclaim(&rest);

    anstream::println!();
    demo.tell("afterwards")?;
    let verdict = demo.verify()?;
    anstream::println!("the child says of its data: {verdict}");
    let holes = found.stuck().thp_holes;
    judge(before.zip(after), holes)?;
    ensure!(verdict.contains(workload::ALL_INTACT), "the child's data changed");
    anstream::println!("done in {:.1} s", began.elapsed().as_secs_f64());
    Ok(Done::All)
}

fn headline(command: &str) {
    anstream::println!("\n$ {command}");
}

/// Says how much of the reported holes came back to the cgroup's charge.
fn judge(charges: Option<(Bytes, Bytes)>, holes: Bytes) -> anyhow::Result<()> {
    if holes == Bytes::ZERO {
        anstream::println!(
            "no huge pages came to be, so none has holes: set \
             /sys/kernel/mm/transparent_hugepage/enabled to madvise to see them"
        );
        return Ok(());
    }
    let Some((before, after)) = charges else {
        anstream::println!("the cgroup's charge could not be read: `recoup doctor` says why");
        return Ok(());
    };
    let freed = before.saturating_sub(after);
    let percent = freed.0 * 100 / holes.0;
    anstream::println!(
        "of {} reported as THP holes, {} came back to the cgroup's charge ({percent} %)",
        human(holes),
        human(freed)
    );
    ensure!(percent >= EXPECTED_PERCENT, "less than {EXPECTED_PERCENT} % of it came back");
    Ok(())
}

/// The child, in a cgroup of its own where one can be made.
struct Demo {
    pid: i32,
    process: Process,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Declared after the child: a cgroup can be removed once it is empty.
    cgroup: Option<OwnCgroup>,
}

impl Demo {
    fn start() -> anyhow::Result<Self> {
        let cgroup = Hierarchy::find()?.and_then(|hierarchy| {
            hierarchy.create(&format!("recoup-demo-{}", std::process::id())).ok()
        });
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-workload")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the workload")?;
        let pid = i32::try_from(child.id())?;
        let commands = child.stdin.take().context("the workload has no input")?;
        let answers = BufReader::new(child.stdout.take().context("the workload has no output")?);
        if let Some(cgroup) = &cgroup {
            cgroup.add(pid)?;
        }
        let process = Process::open(pid)?;
        let mut demo = Self { pid, process, child, commands, answers, cgroup };
        demo.ask("start")?;
        Ok(demo)
    }

    /// Sends a line to the child and returns its answer.
    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}").context("the workload has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the workload has ended");
        Ok(answer.trim_end().to_owned())
    }

    fn verify(&mut self) -> anyhow::Result<String> {
        self.ask("verify")
    }

    fn charge(&self) -> Option<Bytes> {
        self.cgroup.as_ref().and_then(|cgroup| cgroup.charge().ok())
    }

    /// Prints what the kernel says of the child without recoup.
    fn tell(&self, when: &str) -> anyhow::Result<()> {
        let summary = self.process.summary()?;
        let charge = self.charge().map_or("unknown".to_owned(), human);
        anstream::println!(
            "{when}: RSS {}, page tables {}, charged to its cgroup {charge}",
            human(summary.rss),
            human(summary.page_tables)
        );
        Ok(())
    }

    fn pass(&self, mode: Mode, kinds: &[Kind], features: &Features) -> anyhow::Result<RunOutcome> {
        let scan = ScanArgs { exact: false, jobs: None, json: false };
        let target = TargetArgs { pid: vec![self.pid], ..TargetArgs::default() };
        let request = Request {
            target: target.target().unwrap_or(Target::Pids(vec![self.pid])),
            mode,
            policy: Policy { kinds: kinds.iter().copied().collect(), smallest: Bytes::ZERO },
            jobs: scan.jobs(),
            longest_hold: Pace::DEFAULT_LONGEST,
            sampling: Sampling::SPARSE,
            picture: Picture::Skip,
        };
        let outcome = run::run(&request, features, &Progress::on_stderr())?;
        if let Some(error) = outcome.errors().next() {
            bail!("{error}");
        }
        Ok(outcome)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Ends the child if its answers were not awaited; a child that has ended is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
