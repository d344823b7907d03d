//! The page-fault benchmark: map, write one byte in each page, free, over and over.

use recoup::pool::{OwnerOptions, Pool, ReturnSettings, Thp};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_testkit::figure::note;
use recoup_testkit::ratio::Comparison;
use recoup_testkit::{Figure, HostSetting, Size};

use super::bystander::Bystander;
use super::others::{self, Block, Kind};
use super::threads::by_threads;

/// How many times faster than mappings in base pages, and in huge ones.
const TARGET_BASE: f64 = 10.0;
const TARGET_HUGE: f64 = 1.0;
/// How much slower it may be while a thread returns memory.
const TARGET_RETURNING: f64 = 1.02;

pub(super) fn print(size: Size) {
    let _huge = HostSetting::huge_pages("madvise");
    let length = size.pick(128 << 20, 8 << 20);
    let times = size.pick(8, 1);
    let rounds = size.pick(7, 1);
    for threads in [1, 2] {
        let pool = Pool::new(Thp::private(), Bytes(4 << 30));
        let by_pool = || by_threads(threads, times * 10, || pool_loop(&pool, length)).clock / 10;
        for other in others::ALL {
            let theirs =
                || by_threads(threads, times, || warm(move || block(other.kind, length))).clock;
            let compared = Comparison::run(rounds, by_pool, theirs);
            let faster = 1.0 / compared.ratio();
            let what = format!(
                "{} MiB touched through a pool, by {}, {threads} threads",
                length >> 20,
                other.name
            );
            let target = match other.kind {
                Kind::BasePages => TARGET_BASE,
                Kind::HugePages => TARGET_HUGE,
                Kind::Jemalloc | Kind::Mimalloc => {
                    note(&what, &format!("{faster:.1} times as fast"));
                    continue;
                }
            };
            let figure =
                Figure { what: &what, value: compared.ratio(), target: 1.0 / target, unit: "x" };
            figure.print(&format!("{faster:.1} times as fast"));
        }
        print_returning(size, &pool, threads, length);
    }
    print_over_the_threshold(size);
}

/// Who frees more than the threshold in one go has its own memory returned, and fetches it again: what
/// that costs, by the clock.
fn print_over_the_threshold(size: Size) {
    let pool = Pool::new(Thp::private(), Bytes(4 << 30));
    let settings = ReturnSettings::default();
    let length = size.pick(settings.threshold << 21, 8 << 20);
    let times = size.pick(400, 1);
    let without = || by_threads(1, times, || pool_loop(&pool, length)).clock;
    let with = || {
        let background = pool.return_in_background(settings).expect("a thread");
        let time = without();
        drop(background);
        time
    };
    let compared = Comparison::run(size.pick(5, 1), with, without);
    let what = format!("{} MiB at a time while a thread returns them, by without", length >> 20);
    let made_from = format!("{:.0} ms of {:.0}", compared.subject_ms(), compared.baseline_ms());
    note(&what, &format!("{:.2} x ({made_from})", compared.ratio()));
}

/// Long enough for a thread that returns memory to do so several times. By the processor's time of those
/// who are measured: what the others take is not theirs.
fn print_returning(size: Size, pool: &Pool, threads: usize, length: usize) {
    let times = size.pick(20_000, 10);
    let without = || by_threads(threads, times, || pool_loop(pool, length)).processor;
    let with = || {
        let bystander = Bystander::start(pool);
        let time = without();
        bystander.stop();
        time
    };
    let compared = Comparison::run(size.pick(5, 1), with, without);
    let what = format!("the same while a thread returns memory, by without, {threads} threads");
    Figure { what: &what, value: compared.ratio(), target: TARGET_RETURNING, unit: "x" }
        .print(&format!("{:.0} ms of {:.0}", compared.subject_ms(), compared.baseline_ms()));
}

/// What a thread does with an owner of its own.
fn pool_loop(pool: &Pool, length: usize) -> impl FnMut() {
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    let chunks = Chunks((length >> 21) as u64);
    warm(move || {
        let mut extent = owner.chunks(chunks).expect("room");
        for page in extent.chunks_exact_mut(4096) {
            // As the others do it.
            std::hint::black_box(&mut page[0]).clone_from(&1);
        }
    })
}

/// Work that was done once.
fn warm<W: FnMut()>(mut work: W) -> W {
    work();
    work
}

fn block(kind: Kind, length: usize) {
    Block::new(kind, length).touch();
}
