//! What the companion does for a program that lives.

use recoup_testkit::{kernel, require};

use crate::common::{Victim, eventually};

#[test]
fn the_companion_keeps_page_tables_within_limits() {
    let features = recoup_sys::Features::probe().expect("features");
    let needed = [&features.pagemap_scan, &features.table_reclaim, &features.userfaultfd];
    let missing = recoup_sys::Support::first_missing(needed);
    require!(missing.is_none(), "Linux 6.14 with CONFIG_PT_RECLAIM, and userfaultfd");
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
