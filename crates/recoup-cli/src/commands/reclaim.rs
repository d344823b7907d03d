//! `recoup reclaim`: gives back what is stuck.

use std::sync::Arc;

use anyhow::{Context, ensure};
use recoup_reclaim::plan::{Kind, Policy};
use recoup_reclaim::run;
use recoup_reclaim::scan::Picture;
use recoup_reclaim::target::Target;
use recoup_reclaim::{Mode, Request};
use recoup_sys::{Bytes, Features, Process};

use super::Done;
use crate::args::{KindArg, ReclaimArgs};
use crate::show::{json, progress::Progress, table};

pub(crate) fn run(args: ReclaimArgs) -> anyhow::Result<Done> {
    let features = Features::probe()?;
    let output = match (args.scan.json, args.watch) {
        (false, _) => Output::Table,
        (true, None) => Output::Document,
        (true, Some(_)) => Output::DocumentALine,
    };
    let watch = args.watch;
    let mut request = request(args)?;
    let Some(pause) = watch else { return pass(&request, &features, output) };
    hold_open(&mut request.target)?;
    loop {
        pass(&request, &features, output)?;
        std::thread::sleep(pause);
        ensure!(!has_ended(&request.target), "all processes that were named have ended");
    }
}

/// How a pass is shown.
#[derive(Clone, Copy)]
enum Output {
    Table,
    Document,
    DocumentALine,
}

/// One pass, shown.
fn pass(request: &Request, features: &Features, output: Output) -> anyhow::Result<Done> {
    let outcome = run::run(request, features, &Progress::on_stderr())?;
    let document = || json::document(&outcome, features, request.mode);
    match (output, request.mode) {
        (Output::Document, _) => json::print(&document())?,
        (Output::DocumentALine, _) => json::print_line(&document())?,
        (Output::Table, Mode::DryRun) => table::print_plan(&outcome),
        (Output::Table, _) => table::print_reclaim(&outcome),
    }
    table::print_notes(&outcome, features);
    Ok(Done::of(&outcome))
}

/// Opens the processes that were named by number, for as long as the watch goes on: a number may come
/// to mean another process meanwhile.
fn hold_open(target: &mut Target) -> anyhow::Result<()> {
    if let Target::Pids(pids) = target {
        let open = pids.iter().map(|&pid| Process::open(pid).map(Arc::new));
        *target = Target::Open(open.collect::<Result<_, _>>()?);
    }
    Ok(())
}

/// Whether the target was of named processes, none of which is left.
fn has_ended(target: &Target) -> bool {
    match target {
        Target::Open(processes) => processes.iter().all(|process| process.summary().is_err()),
        _ => false,
    }
}

fn request(args: ReclaimArgs) -> anyhow::Result<Request> {
    let kinds = args.only.iter().map(|kind| match kind {
        KindArg::ThpHoles => Kind::ThpHoles,
        KindArg::Lazyfree => Kind::LazyFree,
    });
    let kinds = if args.only.is_empty() { Kind::ALL.into() } else { kinds.collect() };
    Ok(Request {
        mode: if args.dry_run { Mode::DryRun } else { Mode::Reclaim },
        policy: Policy { kinds, smallest: Bytes(args.min_bytes.as_u64()) },
        jobs: args.scan.jobs(),
        longest_hold: args.max_pause,
        sampling: args.scan.sampling(),
        picture: Picture::Skip,
        target: args.target.target().context("name a target: --pid, --cgroup or --all")?,
    })
}
