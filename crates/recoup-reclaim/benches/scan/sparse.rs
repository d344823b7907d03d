//! A sparse process: a terabyte of addresses with a page in each gigabyte.

use recoup_reclaim::Mode;
use recoup_sys::Features;
use recoup_testkit::ratio::median;
use recoup_testkit::{Figure, Size, Workload, kernel};

use crate::common::run;

/// Pages of a gigabyte.
const GIB: u64 = 1 << 18;

pub(crate) fn measure(size: Size, features: &Features) {
    let gigabytes = size.pick(1024, 64);
    let rounds = size.pick(15, 1);
    let mut workload = Workload::start();
    workload.map(&format!("map a {} base", gigabytes * GIB));
    workload.tell(&format!("touch a 5 1 {GIB} {gigabytes}"));
    let hidden = kernel::with_tables_hidden(features);
    let searches = [(features, "by tables"), (&hidden, "by pages, as since Linux 7.3")];
    let shown = usize::from(!features.empty_tables.works());
    for (features, how) in &searches[shown..] {
        for jobs in [1, 2] {
            let once = |_| run(&workload, features, Mode::Report, jobs).took;
            let times = (0..=rounds).map(once).skip(1);
            let figure = Figure {
                what: &format!("scan of {gigabytes} GiB with a page in each {how}, {jobs} jobs"),
                value: median(times.map(|time| time.as_secs_f64() * 1e3).collect()),
                target: 10.0,
                unit: "ms",
            };
            figure.print(&format!("median of {rounds} rounds"));
        }
    }
}
