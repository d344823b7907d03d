//! How long advice keeps the mmap lock of a process: each call that a reclaim's pace makes.

use std::time::{Duration, Instant};

use recoup_reclaim::act::Pace;
use recoup_reclaim::plan::Action;
use recoup_sys::madvise::process_madvise;
use recoup_sys::{PageRange, Process};
use recoup_testkit::ratio::cpu_time;
use recoup_testkit::{Figure, HostSetting, Size, Workload};

use crate::common::{BLOCK, Subject, make_holes, pages};

pub(crate) fn measure(size: Size) {
    let blocks = size.pick(1000, 32);
    let mut workload = Workload::start();
    let holes = {
        let _thp = HostSetting::huge_pages("madvise");
        make_holes(&mut workload, blocks)
    };
    print_longest("splits of huge pages", &workload, holes);
    let count = blocks * BLOCK;
    let addresses = workload.map(&format!("map b {count} base"));
    workload.tell(&format!("touch b 0 {count} {count} 1"));
    workload.tell(&format!("free b 0 {count} {count} 1"));
    print_longest("lazily freed 2 MiB", &workload, pages(&addresses));
}

fn print_longest(what: &str, workload: &Workload, range: PageRange) {
    let subject = Subject::open(workload);
    let actions = subject.actions(range);
    let mut pace = Pace::new(Pace::DEFAULT_LONGEST);
    let (mut rest, mut calls) = (actions.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(pace.batch(rest));
        calls.push(advise(&subject.process, batch, &mut pace));
        rest = later;
    }
    let longest = calls.iter().max().copied().unwrap_or_default();
    let figure = Figure {
        what: &format!("longest process_madvise of a reclaim, {what}"),
        value: longest.as_secs_f64() * 1e3,
        target: 2.0,
        unit: "ms",
    };
    let (calls, actions) = (calls.len(), actions.len());
    figure.print(&format!("of {calls} calls for {actions} ranges"));
}

/// One call as a reclaim makes it, and the processor's time that it took.
fn advise(process: &Process, batch: &[Action], pace: &mut Pace) -> Duration {
    let ranges: Vec<PageRange> = batch.iter().map(Action::range).collect();
    let began = Instant::now();
    let took = cpu_time(|| {
        let advised = process_madvise(process, &ranges, batch[0].advice());
        assert!(advised.stopped.is_none(), "{advised:?}");
    });
    pace.learn(batch.iter().map(Action::work).sum(), began.elapsed());
    took
}
