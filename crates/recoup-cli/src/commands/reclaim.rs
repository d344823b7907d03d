//! `recoup reclaim`: gives back what is stuck.

use anyhow::Context;
use recoup_reclaim::plan::{Kind, Policy};
use recoup_reclaim::run;
use recoup_reclaim::scan::Picture;
use recoup_reclaim::{Mode, Request};
use recoup_sys::{Bytes, Features};

use super::Done;
use crate::args::{KindArg, ReclaimArgs};
use crate::show::{json, progress::Progress, table};

pub(crate) fn run(args: ReclaimArgs) -> anyhow::Result<Done> {
    let features = Features::probe()?;
    let as_json = args.scan.json;
    let watch = args.watch;
    let request = request(args)?;
    loop {
        let outcome = run::run(&request, &features, &Progress::on_stderr())?;
        if as_json {
            let document = json::document(&outcome, &features, request.mode);
            if watch.is_some() { json::print_line(&document)? } else { json::print(&document)? }
        } else if request.mode == Mode::DryRun {
            table::print_plan(&outcome);
        } else {
            table::print_reclaim(&outcome);
        }
        table::print_notes(&outcome, &features);
        match watch {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(Done::of(&outcome)),
        }
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
