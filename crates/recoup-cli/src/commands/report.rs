//! `recoup report`: what is stuck.

use std::path::Path;

use anyhow::{Context, bail};
use recoup_reclaim::plan::{Kind, Policy};
use recoup_reclaim::run::{self, RunOutcome};
use recoup_reclaim::scan::Picture;
use recoup_reclaim::target::Target;
use recoup_reclaim::{Mode, Request, act::Pace};
use recoup_sys::{Bytes, Features};

use super::Done;
use crate::args::ReportArgs;
use crate::show::{json, map_svg, map_terminal, progress::Progress, table};

pub(crate) fn run(args: ReportArgs) -> anyhow::Result<Done> {
    let features = Features::probe()?;
    let request = Request {
        mode: Mode::Report,
        policy: Policy { kinds: Kind::ALL.into(), smallest: Bytes::ZERO },
        jobs: args.scan.jobs(),
        longest_hold: Pace::DEFAULT_LONGEST,
        sampling: args.scan.sampling(),
        picture: if args.map.is_some() { Picture::Draw } else { Picture::Skip },
        target: args.target.target().unwrap_or(Target::All),
    };
    let outcome = run::run(&request, &features, &Progress::on_stderr())?;
    match args.map {
        Some(file) => draw(&outcome, file.as_deref())?,
        None if args.scan.json => json::print(&json::document(&outcome, &features, Mode::Report))?,
        None => {
            table::print_report(&outcome);
            if args.mappings {
                table::print_mappings(&outcome);
            }
            table::print_host(&outcome);
        }
    }
    table::print_notes(&outcome, &features);
    Ok(Done::of(&outcome))
}

fn draw(outcome: &RunOutcome, file: Option<&Path>) -> anyhow::Result<()> {
    let [process] = outcome.processes.as_slice() else {
        if outcome.processes.is_empty() {
            return Ok(());
        }
        bail!("--map draws one process: name one with --pid");
    };
    match file {
        None => map_terminal::print(process),
        Some(path) => {
            let picture = map_svg::draw(process);
            svg::save(path, &picture)
                .with_context(|| format!("cannot write the picture to {}", path.display()))?;
            anstream::println!("{}: process {} ({})", path.display(), process.pid, process.comm);
        }
    }
    Ok(())
}
