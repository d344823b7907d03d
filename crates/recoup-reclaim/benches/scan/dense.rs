//! A dense process: a whole run, against nothing but reading its `pagemap`.

use recoup_reclaim::Mode;
use recoup_sys::pagemap::Pagemap;
use recoup_sys::{Features, PageRange, Pages};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, median, timed};
use recoup_testkit::{Figure, Size, Workload, kernel};

use crate::common::{Subject, pages, run};

/// Words of one read: 64 KiB.
const WORDS: usize = 8192;
const GIB: u64 = 1 << 30;

pub(crate) fn measure(size: Size, features: &Features) {
    let bytes = fitting(size.pick(4 * GIB, GIB / 16));
    let rounds = size.pick(15, 1);
    let count = bytes >> 12;
    let mut workload = Workload::start();
    note_fixed_cost(&workload, features, rounds);
    let addresses = workload.map(&format!("map a {count} base"));
    workload.tell(&format!("touch a 0 {count} {count} 1"));
    let subject = Subject::open(&workload);
    for jobs in [1, 2] {
        let comparison = Comparison::run(
            rounds,
            || run(&workload, features, Mode::Report, jobs).took,
            || timed(|| read_all(&subject.pagemap, pages(&addresses))),
        );
        let figure = Figure {
            what: &format!("scan of {count} dense 4 KiB pages, {jobs} jobs"),
            value: comparison.ratio(),
            target: 1.4,
            unit: "x reading its pagemap",
        };
        let (scan, read) = (comparison.subject_ms(), comparison.baseline_ms());
        figure.print(&format!("{scan:.2} ms by {read:.2} ms, {rounds} rounds"));
    }
}

/// As much as is wanted, or what leaves half of this machine's memory to others.
fn fitting(wanted: u64) -> u64 {
    let most = (kernel::available_bytes() / 2) >> 21 << 21;
    if wanted > most {
        println!("scan: memory is short, {most} bytes instead of {wanted}");
    }
    wanted.min(most)
}

/// What a run costs however small the process, and what reading the host's counters adds to it.
fn note_fixed_cost(workload: &Workload, features: &Features, rounds: usize) {
    let mut scans = Vec::new();
    let run = |_| timed(|| scans.push(run(workload, features, Mode::Report, 1).took)).as_secs_f64();
    let whole = median((0..rounds).map(run).collect()) * 1e3;
    let scan = median(scans.iter().map(|time| time.as_secs_f64() * 1e3).collect());
    let figures = format!("{scan:.2} ms, and {:.2} ms for the host's counters", whole - scan);
    note("scan of a process with next to no memory", &figures);
}

fn read_all(pagemap: &Pagemap, range: PageRange) {
    let mut words = vec![0; WORDS];
    let mut position = range.start;
    while position < range.end {
        let read = pagemap.read(position, &mut words).expect("a read");
        assert!(read > 0, "the workload lives");
        position = position + Pages(read as u64);
    }
}
