//! Bounds that hold however large the target is. Counts decide, never time.

use crate::common::{features, report_as_on};
use recoup_testkit::workload::peak_of_recoup;
use recoup_testkit::{Workload, kernel, require};

#[test]
fn a_sparse_terabyte_is_scanned_at_the_cost_of_what_is_in_it() {
    require!(kernel::is_root(), "root");
    require!(kernel::version() >= (6, 7), "PAGEMAP_SCAN (Linux 6.7)");
    let mut workload = Workload::start();
    workload.map(&format!("map a {} base", 1_u64 << 28));
    workload.tell(&format!("touch a 5 1 {} 1024", 1_u64 << 18));
    workload.tell(&format!("touch a 8192 1 {} 100", 1_u64 << 18));
    workload.tell(&format!("discard a 8192 1 {} 100", 1_u64 << 18));
    // Since Linux 7.3 no empty table is shown, which this kernel can be asked to do without, too.
    for features in [features(), kernel::with_tables_hidden(&features())] {
        let before = bytes_read();
        let found = report_as_on(&workload, &features);
        let read = bytes_read() - before;
        assert!(found.pages.0 >= 1024);
        // Some of the program's own count, too, and some cannot be told from needed ones.
        let empty = found.stuck.empty_tables.whole_pages().0;
        assert!((90..=110).contains(&empty), "{empty} empty tables");
        // All words of a terabyte are 2 GiB; those of 1024 tables 4 MiB.
        assert!(read < 64 << 20, "{read} bytes read");
    }
}

/// Bytes that this process has read from files, kernel files included (proc_pid_io(5)).
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("CONFIG_TASK_IO_ACCOUNTING");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn recoup_needs_no_more_memory_for_a_target_with_more_findings() {
    require!(kernel::is_root(), "root");
    let peak = |blocks: u64| {
        let mut workload = Workload::start();
        // Alternating lazily freed pages are the most findings that memory can hold.
        workload.map(&format!("map a {} base", blocks * 512));
        workload.tell("fill a");
        workload.tell(&format!("free a 0 1 2 {}", blocks * 256));
        peak_of_recoup(workload.pid())
    };
    let (small, large) = (peak(8), peak(256));
    assert!(large < small + (4 << 20), "{small} bytes for 16 MiB, {large} for 512 MiB");
    assert!(large < 64 << 20, "{large}");
}
