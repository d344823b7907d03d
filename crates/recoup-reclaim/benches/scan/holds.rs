//! How long looking keeps the mmap lock of a process: measured call by call, as the processor's
//! time within the call, and bounded from what an entry costs.

use std::time::Duration;

use recoup_sys::pagemap::{Pagemap, Run, SCAN_MAX_ENTRIES, SCAN_MAX_SPAN, Scanned};
use recoup_sys::units::{BLOCK as BLOCK_BYTES, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Features, PageRange, Pages};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::cpu_time;
use recoup_testkit::{Figure, Size, Workload};

use crate::common::{BLOCK, Subject, pages};

/// Pages of a gigabyte.
const GIB: u64 = 1 << 18;
/// How often each layout is scanned.
const PASSES: usize = 7;

/// What a kernel is asked for.
#[derive(Clone, Copy)]
enum Search {
    /// Page tables: from Linux 6.7 to 7.2.
    Tables,
    /// Pages that hold something: since Linux 7.3.
    Held,
}

impl Search {
    fn name(self) -> &'static str {
        match self {
            Self::Tables => "for tables",
            Self::Held => "for pages",
        }
    }

    fn find<'a>(self, pagemap: &Pagemap, range: PageRange, runs: &'a mut [Run]) -> Scanned<'a> {
        let found = match self {
            Self::Tables => pagemap.find_tables(range, runs),
            Self::Held => pagemap.find_held(range, runs),
        };
        found.expect("a scan")
    }

    /// Most addresses that one call looks at.
    fn span(self) -> Bytes {
        match self {
            Self::Tables => SCAN_MAX_SPAN,
            Self::Held => Pages(SCAN_MAX_ENTRIES).bytes(),
        }
    }
}

pub(crate) fn measure(size: Size, features: &Features) {
    if features.empty_tables.works() {
        measure_search(Search::Tables, size);
    }
    measure_search(Search::Held, size);
}

fn measure_search(search: Search, size: Size) {
    let dense = dense(search, size.pick(GIB, GIB / 16));
    let empty = tables(search, size.pick(16, 1));
    let sparse = sparse(search, size.pick(1024, 64));
    let entry = dense.max(empty);
    let spanned = (search.span().0 / BLOCK_BYTES.0) as f64;
    let figure = Figure {
        what: &format!("longest hold by PAGEMAP_SCAN {}, by construction", search.name()),
        value: (SCAN_MAX_ENTRIES as f64 * entry + spanned * sparse) / 1e6,
        target: 2.0,
        unit: "ms",
    };
    figure.print(&format!(
        "{SCAN_MAX_ENTRIES} entries of {entry:.1} ns, and {spanned} blocks without a table of \
         {sparse:.1} ns"
    ));
}

/// Pages without a gap; returns the nanoseconds of an entry.
fn dense(search: Search, count: u64) -> f64 {
    let mut workload = Workload::start();
    let addresses = workload.map(&format!("map a {count} base"));
    workload.tell(&format!("touch a 0 {count} {count} 1"));
    let pagemap = Subject::open(&workload).pagemap;
    let range = pages(&addresses);
    note_reads(&pagemap, range);
    nanos(print_longest(search, "dense pages", &pagemap, range)) / count as f64
}

/// A table with nothing in it in each 2 MiB; returns the nanoseconds of an entry.
fn tables(search: Search, gigabytes: u64) -> f64 {
    let mut workload = Workload::start();
    let count = gigabytes * GIB / BLOCK;
    let addresses = workload.map(&format!("map a {} base", gigabytes * GIB));
    workload.tell(&format!("touch a 5 1 {BLOCK} {count}"));
    workload.tell(&format!("discard a 5 1 {BLOCK} {count}"));
    let pagemap = Subject::open(&workload).pagemap;
    let range = pages(&addresses);
    let total = print_longest(search, "an empty table in each 2 MiB", &pagemap, range);
    nanos(total) / range.length().0 as f64
}

/// A page in each gigabyte, so that there are PMD tables; returns the nanoseconds of a block without
/// a table (counting the few that have one as such, which errs on the high side).
fn sparse(search: Search, gigabytes: u64) -> f64 {
    let mut workload = Workload::start();
    let addresses = workload.map(&format!("map a {} base", gigabytes * GIB));
    workload.tell(&format!("touch a 5 1 {GIB} {gigabytes}"));
    let pagemap = Subject::open(&workload).pagemap;
    let range = pages(&addresses);
    let total = print_longest(search, "a page in each GiB", &pagemap, range);
    nanos(total) / (range.length().0 / BLOCK) as f64
}

/// Prints the longest call of a scan over a range, and returns the time of all calls. What a
/// hypervisor takes away counts as a call's time: so the range is scanned a few times, and the
/// median of the longest calls is the figure.
fn print_longest(search: Search, layout: &str, pagemap: &Pagemap, range: PageRange) -> Duration {
    let passes: Vec<Vec<Duration>> =
        (0..PASSES).map(|_| scan_calls(search, pagemap, range)).collect();
    let mut longest: Vec<Duration> =
        passes.iter().filter_map(|calls| calls.iter().max().copied()).collect();
    longest.sort_unstable();
    let figure = Figure {
        what: &format!("longest PAGEMAP_SCAN {}, {layout}", search.name()),
        value: nanos(longest[PASSES / 2]) / 1e6,
        target: 2.0,
        unit: "ms",
    };
    let (calls, worst) = (passes[0].len(), nanos(longest[PASSES - 1]) / 1e6);
    figure.print(&format!("of {calls} calls, median of {PASSES} passes, worst {worst:.3} ms"));
    let total = passes.iter().map(|calls| calls.iter().sum()).min();
    total.unwrap_or_default()
}

/// Scans a range and returns the processor's time of each call.
fn scan_calls(search: Search, pagemap: &Pagemap, range: PageRange) -> Vec<Duration> {
    let mut runs = vec![Run::default(); PAGES_PER_BLOCK];
    let mut calls = Vec::new();
    let mut rest = range;
    while !rest.is_empty() {
        let mut until = rest.start;
        calls.push(cpu_time(|| {
            until = search.find(pagemap, rest, &mut runs).looked_until;
        }));
        rest.start = until.max(rest.start + Pages(1));
    }
    calls
}

/// A read lets the lock go after each 512 entries.
fn note_reads(pagemap: &Pagemap, range: PageRange) {
    let mut words = [0; PAGES_PER_BLOCK];
    let blocks = (0..range.length().0 / BLOCK).map(|i| range.start + Pages(i * BLOCK));
    let longest =
        blocks.map(|start| cpu_time(|| _ = pagemap.read(start, &mut words).expect("a read"))).max();
    let micros = longest.map_or(0.0, nanos) / 1e3;
    note("longest hold by reading pagemap, 512 entries at a time", &format!("{micros:.1} us"));
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
