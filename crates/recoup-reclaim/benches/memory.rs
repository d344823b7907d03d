//! The memory that `recoup` itself needs, by the size of its target.

use recoup_testkit::figure::note;
use recoup_testkit::workload::peak_of_recoup;
use recoup_testkit::{Figure, Size, Workload, kernel};

const MIB: f64 = (1 << 20) as f64;
/// Pages of a gigabyte.
const GIB: u64 = 1 << 18;
/// What the figure is about.
const LARGE: f64 = 100.0;
/// In the sparse target, one page in so many is resident.
const SPARSE_STEP: u64 = 32;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    if !kernel::is_root() {
        println!("memory: not measured, it needs root");
        return;
    }
    let sizes: Vec<u64> = size
        .pick([1, 2, 4, 8].map(|gib| gib * GIB), [1, 2, 3, 4].map(|part| part * GIB / 64))
        .into_iter()
        .filter(|&pages| fits(pages))
        .collect();
    let peaks: Vec<f64> = sizes.iter().map(|&pages| print_dense(pages)).collect();
    // A few pages more or less say nothing about small targets.
    if size == Size::Full {
        print_growth(&sizes, &peaks);
    }
    print_sparse(size.pick(100 * GIB, GIB));
    note(
        "why it is bounded",
        &format!(
            "findings are acted on in portions of {}, and of an address space each worker has 64 \
             KiB of pagemap in memory; what stays is an entry for each window and mapping",
            recoup_reclaim::run::PORTION
        ),
    );
}

/// Whether so many resident pages leave half of this machine's memory to others.
fn fits(pages: u64) -> bool {
    let fits = pages << 12 <= kernel::available_bytes() / 2;
    if !fits {
        println!("memory: too short for {:.2} GiB, left out", gib(pages));
    }
    fits
}

fn gib(pages: u64) -> f64 {
    pages as f64 / GIB as f64
}

/// Pages without a gap, every other one lazily freed: the most findings that memory can hold.
fn print_dense(pages: u64) -> f64 {
    let mut workload = Workload::start();
    workload.map(&format!("map a {pages} base"));
    workload.tell(&format!("touch a 0 {pages} {pages} 1"));
    workload.tell(&format!("free a 0 1 2 {}", pages / 2));
    let what = format!("peak of recoup for {:.2} GiB resident", gib(pages));
    print_peak(&what, &workload, pages / 2)
}

/// Addresses that no memory of this machine could fill, with a lazily freed page here and there.
fn print_sparse(pages: u64) {
    let resident = pages / SPARSE_STEP;
    if !fits(resident) {
        return;
    }
    let mut workload = Workload::start();
    workload.map(&format!("map a {pages} base"));
    workload.tell(&format!("touch a 0 1 {SPARSE_STEP} {resident}"));
    workload.tell(&format!("free a 0 1 {SPARSE_STEP} {resident}"));
    let what = format!("peak of recoup for {:.2} GiB of addresses", gib(pages));
    print_peak(&what, &workload, resident);
}

/// Prints and returns the peak, in bytes.
fn print_peak(what: &str, workload: &Workload, findings: u64) -> f64 {
    let before = kernel::status_bytes(workload.pid(), "VmRSS");
    let peak = peak_of_recoup(workload.pid());
    let given_back = before - kernel::status_bytes(workload.pid(), "VmRSS");
    let figure = Figure { what, value: peak as f64 / MIB, target: 64.0, unit: "MiB" };
    figure.print(&format!("{findings} findings, {given_back} bytes given back"));
    peak as f64
}

/// Prints how the peak grows, and what that means for a large process.
fn print_growth(sizes: &[u64], peaks: &[f64]) {
    let ([first_size, .., last_size], [first, .., last]) = (sizes, peaks) else {
        return;
    };
    let per_gib = (last - first) / (gib(*last_size) - gib(*first_size));
    let figure = Figure {
        what: &format!("peak of recoup for {LARGE} GiB resident, extrapolated"),
        value: (last + per_gib.max(0.0) * (LARGE - gib(*last_size))) / MIB,
        target: 64.0,
        unit: "MiB",
    };
    figure.print(&format!("it grows by {per_gib:.0} bytes a GiB"));
}
