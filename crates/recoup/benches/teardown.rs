//! The figures of tearing down memory: by several threads against munmap(2), and the end of a process
//! with a companion against one without.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use recoup::teardown::{Options, Workers, free_parallel, unmap_later};
use recoup_sys::cgroup::OwnCgroup;
use recoup_sys::mapped::OwnedMapping;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGE};
use recoup_sys::{Bytes, Pages};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{Comparison, median, timed};
use recoup_testkit::workload::{charge, own_cgroup};
use recoup_testkit::{Figure, Size, Workload, kernel};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    print_two_workers(size);
    print_by_workers(size);
    print_by_size(size);
    print_huge_address_spaces(size);
    print_handed_over(size);
    print_end_of_process(size);
}

fn exactly(workers: usize) -> Workers {
    Workers::Exactly(NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN))
}

/// Memory of which every page is there.
fn full(bytes: u64, advice: OwnAdvice) -> Region {
    let mut region = Region::new(Bytes(bytes)).expect("address space");
    let all = region.pages().length();
    // Where there are no huge pages, base pages it is.
    let _ = region.advise(Pages(0), all, advice);
    region.touch(Pages(0), all);
    region
}

/// The most of what is wanted that leaves a third of this machine's memory to others.
fn at_most(wanted: u64) -> u64 {
    wanted.min(kernel::available_bytes() / 3 * 2 / GIB.min(wanted) * GIB.min(wanted))
}

/// How long it takes until the memory is free and unmapped.
fn free_by(workers: Workers, region: Region) -> Duration {
    let mut mapping = OwnedMapping::from(region);
    timed(|| {
        let contents = mapping.contents().into_iter().collect();
        let freed = free_parallel(contents, &Options { workers, progress: None });
        assert!(freed.failures.is_empty());
        drop(mapping);
    })
}

fn unmap(region: Region) -> Duration {
    timed(|| drop(region))
}

fn print_two_workers(size: Size) {
    let bytes = at_most(size.pick(2 * GIB, 128 * MIB));
    let base = OwnAdvice::BasePages;
    for (name, workers) in [("2 workers", exactly(2)), ("adaptive workers", Workers::default())] {
        let compared = Comparison::run(
            size.pick(5, 1),
            || free_by(workers, full(bytes, base)),
            || unmap(full(bytes, base)),
        );
        let figure = Figure {
            what: &format!("{} MiB of 4 KiB pages freed by {name}, of munmap's time", bytes / MIB),
            value: compared.ratio(),
            target: 1.0 / 1.8,
            unit: "x",
        };
        let (subject, baseline) = (compared.subject_ms(), compared.baseline_ms());
        figure.print(&format!(
            "{subject:.1} against {baseline:.1} ms: {:.2} times as fast",
            1.0 / compared.ratio()
        ));
    }
}

fn print_by_workers(size: Size) {
    let bytes = at_most(size.pick(GIB, 64 * MIB));
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for (name, advice) in [("4 KiB", OwnAdvice::BasePages), ("huge", OwnAdvice::HugePages)] {
        let rounds = size.pick(3, 1);
        let times = |run: &dyn Fn() -> Duration| {
            median((0..rounds).map(|_| run().as_secs_f64() * 1e3).collect())
        };
        let mut row = format!("munmap {:.1} ms", times(&|| unmap(full(bytes, advice))));
        for workers in [1, 2, 4, 8, 16].into_iter().filter(|&w| w <= processors.max(2) * 2) {
            let time = times(&|| free_by(exactly(workers), full(bytes, advice)));
            row += &format!(", {workers} workers {time:.1} ms");
        }
        let what = format!("{} MiB of {name} pages on {processors} processors", bytes / MIB);
        note(&what, &row);
    }
}

fn print_by_size(size: Size) {
    let sizes = size.pick([1, 2, 4, 8], [1, 2, 3, 4]);
    let unit = size.pick(GIB, 32 * MIB);
    for (name, advice) in [("4 KiB", OwnAdvice::BasePages), ("huge", OwnAdvice::HugePages)] {
        let mut row = String::new();
        for bytes in sizes.map(|count| count * unit) {
            if at_most(bytes) < bytes {
                row += &format!("{} MiB left out, memory is short; ", bytes / MIB);
                continue;
            }
            let times = (0..size.pick(2, 1))
                .map(|_| free_by(exactly(2), full(bytes, advice)).as_secs_f64() * 1e3);
            let per_gib = median(times.collect()) * GIB as f64 / bytes as f64;
            row += &format!("{} MiB {per_gib:.1}; ", bytes / MIB);
        }
        note(&format!("ms a GiB of {name} pages by 2 workers"), row.trim_end_matches("; "));
    }
}

/// Addresses with little in them, and memory in many mappings, by munmap and by two workers.
fn print_huge_address_spaces(size: Size) {
    let gib = size.pick(256, 8);
    let layouts: [(String, &dyn Fn() -> Region); 2] = [
        (format!("{gib} GiB of addresses with a page in each 2 MiB"), &|| sparse(gib * GIB)),
        (format!("{} MiB in mappings of 64 KiB", gib * 4), &|| cut_up(gib * 4 * MIB)),
    ];
    for (what, make) in layouts {
        let compared =
            Comparison::run(size.pick(3, 1), || free_by(exactly(2), make()), || unmap(make()));
        let (subject, baseline) = (compared.subject_ms(), compared.baseline_ms());
        let faster = 1.0 / compared.ratio();
        let times = format!(
            "{subject:.1} ms by 2 workers, {baseline:.1} by munmap: {faster:.2} times as fast"
        );
        note(&what, &times);
    }
}

/// A page in each block.
fn sparse(bytes: u64) -> Region {
    let mut region = Region::new(Bytes(bytes)).expect("address space");
    let all = region.pages().length();
    let _ = region.advise(Pages(0), all, OwnAdvice::BasePages);
    (0..bytes / BLOCK.0)
        .for_each(|block| region.touch(Pages(BLOCK.whole_pages().0 * block), Pages(1)));
    region
}

/// Full, and each other 64 KiB of it advised otherwise than the rest, which makes mappings of them.
fn cut_up(bytes: u64) -> Region {
    let mut region = full(bytes, OwnAdvice::BasePages);
    let piece = Pages(16);
    for start in (0..bytes / PAGE.0).step_by(32) {
        region.advise(Pages(start), piece, OwnAdvice::HugePages).expect("another mapping");
    }
    region
}

/// How long the caller waits for a mapping that is unmapped behind its back.
fn print_handed_over(size: Size) {
    let bytes = at_most(size.pick(2 * GIB, 64 * MIB));
    let base = OwnAdvice::BasePages;
    let hand_over = || {
        let mapping = OwnedMapping::from(full(bytes, base));
        let began = Instant::now();
        let job = unmap_later(mapping).expect("a thread");
        let took = began.elapsed();
        job.join().expect("no panic");
        took
    };
    let compared = Comparison::run(size.pick(5, 1), hand_over, || unmap(full(bytes, base)));
    let (later, now) = (compared.subject_ms() * 1e3, compared.baseline_ms());
    let what = format!("{} MiB unmapped later: the caller waits", bytes / MIB);
    note(&what, &format!("{later:.0} us against {now:.1} ms"));
}

/// What one process's end took.
struct End {
    seen: Duration,
    all_back: Duration,
}

fn end(cgroup: &OwnCgroup, bytes: u64, how: &str, prepare: &str) -> End {
    let mut victim = Workload::start_program("recoup-victim");
    cgroup.add(victim.pid()).expect("the victim can be moved");
    victim.tell(&format!("map {} base", bytes / MIB));
    victim.tell(prepare);
    let full = charge(cgroup);
    assert!(full >= bytes);
    let began = Instant::now();
    victim.send(&format!("die {how}"));
    victim.status();
    let seen = began.elapsed();
    // Kernel memory and files' pages stay charged a little longer, whoever frees.
    while charge(cgroup) > bytes / 50 && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    let all_back = began.elapsed();
    while !cgroup.pids().unwrap_or_default().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    End { seen, all_back }
}

fn print_end_of_process(size: Size) {
    let cgroup = own_cgroup("bench-end").filter(|_| kernel::is_root());
    let Some(cgroup) = cgroup else {
        println!("end of a process: not measured, it needs root and a memory cgroup");
        return;
    };
    let bytes = at_most(size.pick(12 * GIB, 256 * MIB));
    for (how, rounds) in [("exit", 3), ("abort", 1)] {
        let (mut sooner, mut back, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..size.pick(rounds, 1) {
            let with = end(&cgroup, bytes, how, "arm");
            let without = end(&cgroup, bytes, how, "hello");
            sooner.push(with.seen.as_secs_f64() / without.seen.as_secs_f64());
            back.push(with.all_back.as_secs_f64() / without.all_back.as_secs_f64());
            times.push([with.seen, without.seen, with.all_back, without.all_back]);
        }
        let ms = |which: usize| {
            median(times.iter().map(|times| times[which].as_secs_f64() * 1e3).collect())
        };
        let (what, mib) = (format!("{how} with a companion"), bytes / MIB);
        Figure {
            what: &format!("{what}, seen by the parent, of the time without"),
            value: median(sooner.clone()),
            target: 0.01,
            unit: "x",
        }
        .print(&format!(
            "{mib} MiB of 4 KiB pages, {:.2} against {:.1} ms: {:.0} times sooner",
            ms(0),
            ms(1),
            1.0 / median(sooner)
        ));
        Figure {
            what: &format!("{what}, all memory back, of the time without"),
            value: median(back),
            target: 1.2,
            unit: "x",
        }
        .print(&format!("{:.1} against {:.1} ms", ms(2), ms(3)));
    }
}
