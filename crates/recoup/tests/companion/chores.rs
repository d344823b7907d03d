//! What the companion does for a program that lives.

use recoup_testkit::workload::charge;
use recoup_testkit::{HostSetting, kernel, require};

use crate::common::{Victim, eventually};

#[test]
fn the_companion_keeps_page_tables_within_limits() {
    let features = recoup_sys::Features::probe().expect("features");
    let needed = [&features.pagemap_scan, &features.userfaultfd];
    let missing = recoup_sys::Support::first_missing(needed);
    require!(missing.is_none(), "PAGEMAP_SCAN (Linux 6.7) and a userfaultfd for kernel faults");
    let victim = Victim::start("chores");
    require!(victim.is_some(), "a memory cgroup of its own");
    let mut victim = victim.expect("just looked");
    let tables = |pid| kernel::status_bytes(pid, "VmPTE");
    let pid = victim.program.pid();
    let before = tables(pid);
    victim.program.tell("sparse 4096");
    let full = tables(pid);
    assert!(full > before + 4000 * 4096, "{full} bytes of page tables");
    victim.companion = victim.program.tell("arm-tables").parse().expect("its number");
    eventually("few page tables", || tables(pid) < before + (2 << 20));
    assert_eq!(victim.program.tell("check-sparse"), "0");
}

#[test]
fn the_companion_splits_what_waits() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let victim = Victim::start("splits");
    require!(victim.is_some(), "a memory cgroup of its own");
    let mut victim = victim.expect("just looked");
    // More than the queue has room for.
    let huge = victim.program.tell("holed 100");
    require!(huge == "true", "memory that is not too fragmented for huge pages");
    victim.companion = victim.program.tell("arm-splits").parse().expect("its number");
    let before = charge(&victim.cgroup);
    victim.program.tell("give-back");
    eventually("nothing waits", || victim.program.tell("waiting") == "0");
    let fell = before.saturating_sub(charge(&victim.cgroup));
    assert!(fell > 190 << 20, "the charge fell by {fell} of 200 MiB");
    assert_eq!(victim.program.tell("check-holed"), "0");
}
