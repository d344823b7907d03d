//! `recoup pool`: what it says is what sysfs and `/proc` show, and nobody's pages are taken.

use recoup_sys::Bytes;
use recoup_sys::hugetlb::OPTIMIZE_VMEMMAP;
use recoup_sys::numa;
use recoup_sys::own::Backing;
use recoup_sys::region::Region;
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN, Pages};
use recoup_testkit::{HugePages, kernel, require, require_in_guest};
use serde_json::Value;

use crate::bad_input::{fails_with, unprivileged};
use crate::json::assert_valid_as;
use crate::{document, recoup, text};

const POOLS: &str = "root, and hugetlb pages of 2 MiB";
const FRAGMENTED: &str = "memory that is not too fragmented for huge pages";

fn has_pools() -> bool {
    kernel::is_root() && kernel::hugetlb(BLOCK.0, "nr_hugepages").is_some()
}

fn total(page_size: Bytes) -> u64 {
    kernel::hugetlb(page_size.0, "nr_hugepages").expect("the pool")
}

/// Keeps the pools and the switch, which is off at first.
fn kept() -> HugePages {
    let switch = [(OPTIMIZE_VMEMMAP, "0")];
    let exists = std::path::Path::new(OPTIMIZE_VMEMMAP).exists();
    let settings = if exists { switch.as_slice() } else { &[] };
    HugePages::reserve_with(settings, &[(BLOCK, 0)]).expect("none are asked for")
}

/// Runs `recoup pool` and checks its document against the schema.
fn pool(arguments: &[&str]) -> Value {
    let arguments = [&["pool"], arguments, &["--json"]].concat();
    let document = document(&arguments);
    assert_valid_as("PoolDocument", &document);
    document
}

/// What a document says of the host's pool of 2 MiB pages.
fn small<'a>(state: &'a Value, member: &str) -> &'a Value {
    let pools = state["pools"].as_array().expect("a list");
    let is_it = |pool: &&Value| pool["page_bytes"] == BLOCK.0 && pool["node"].is_null();
    &pools.iter().find(is_it).expect("the pool")[member]
}

#[test]
fn pages_that_are_reserved_and_released_are_those_of_the_pool() {
    require!(has_pools(), POOLS);
    let _kept = kept();
    let before = total(BLOCK);
    let came = pool(&["reserve", "--size", "2M", "--bytes", "31M"]);
    require!(came["errors"] == Value::Array(vec![]), FRAGMENTED);
    assert_eq!((total(BLOCK), &came["order"]["done"]), (before + 16, &16.into()));
    assert_eq!(came["order"]["before"]["pools"][0]["total"], before);
    let status = pool(&["status"]);
    assert_eq!(*small(&status["now"], "total"), before + 16);
    assert_eq!(status["now"]["memory_bytes"], kernel::meminfo_bytes("MemTotal"));
    let went = pool(&["release", "--size", "2M", "--pages", "16"]);
    assert_eq!((total(BLOCK), &went["order"]["done"]), (before, &16.into()));
    assert_eq!(*small(&went["now"], "total"), before);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    require!(has_pools(), POOLS);
    let _kept = kept();
    let before = total(BLOCK);
    let order = ["pool", "reserve", "--size", "2M", "--pages", "3", "--optimise", "--dry-run"];
    let output = recoup(&order);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("would switch vm.hugetlb_optimize_vmemmap on"), "{printed}");
    assert!(printed.contains("would reserve 3 pages of 2M (6.0 MiB)"), "{printed}");
    assert_eq!(total(BLOCK), before);
    if let Ok(switch) = std::fs::read_to_string(OPTIMIZE_VMEMMAP) {
        assert_eq!(switch.trim(), "0");
    }
    let document = pool(&["release", "--size", "2M", "--all", "--dry-run"]);
    assert!(document["order"]["done"].is_null());
}

#[test]
fn all_but_what_is_in_use_is_released_and_the_table_says_so() {
    require!(has_pools(), POOLS);
    let pages = HugePages::reserve(&[(BLOCK, 5)]);
    require!(pages.is_ok(), FRAGMENTED);
    let mut region = Region::of(Backing::HugeTlbPrivate(BLOCK), BLOCK).expect("a free page");
    region.touch(Pages(0), Pages(1));
    let (before, idle) = (total(BLOCK), kernel::hugetlb(BLOCK.0, "free_hugepages"));
    let idle = idle.expect("the pool");
    let output = recoup(&["pool", "release", "--size", "2M", "--pages", &(idle + 1).to_string()]);
    fails_with(&output, 1, &["in use or promised to a mapping"]);
    let printed = text(&output.stdout);
    assert!(printed.contains(&format!("released {idle} of {} pages of 2M", idle + 1)), "{printed}");
    assert!(printed.contains(&format!("{before} -> {}", before - idle)), "{printed}");
    assert_eq!(total(BLOCK), before - idle);
    assert_eq!(kernel::hugetlb(BLOCK.0, "surplus_hugepages"), Some(0));
    assert!(recoup(&["pool", "release", "--size", "2M", "--all"]).status.success());
    assert_eq!(total(BLOCK), before - idle);
}

#[test]
fn optimised_pages_show_what_they_save_as_the_kernel_counts_it() {
    require!(has_pools(), POOLS);
    require!(std::path::Path::new(OPTIMIZE_VMEMMAP).exists(), "the vmemmap optimisation");
    require!(kernel::vmstat("nr_memmap_boot_pages") > 0, "counted struct pages (Linux 6.11)");
    let _kept = kept();
    let counted = || kernel::vmstat("nr_memmap_pages") + kernel::vmstat("nr_memmap_boot_pages");
    let before = counted();
    let reserved = pool(&["reserve", "--size", "2M", "--pages", "24", "--optimise"]);
    require!(reserved["errors"] == Value::Array(vec![]), FRAGMENTED);
    assert_eq!(before - counted(), 24 * 7);
    assert_eq!(reserved["now"]["vmemmap_optimised"], true);
    assert_eq!(reserved["now"]["struct_pages_bytes"], counted() * 4096);
    assert_eq!(reserved["order"]["before"]["struct_pages_bytes"], before * 4096);
    let printed = text(&recoup(&["pool", "status"]).stdout);
    assert!(printed.contains("(vm.hugetlb_optimize_vmemmap is on)"), "{printed}");
    assert!(printed.contains("(1.56 %)") && printed.contains("(0.20 %)"), "{printed}");
}

#[test]
fn nodes_are_shown_where_there_are_several_and_can_be_named() {
    require!(has_pools(), POOLS);
    let _kept = kept();
    let nodes = numa::nodes_with_memory().expect("the list of nodes");
    let last = nodes.last().expect("a node").0;
    let order = ["reserve", "--size", "2M", "--pages", "3", "--node", &last.to_string()];
    let reserved = pool(&order);
    require!(reserved["errors"] == Value::Array(vec![]), FRAGMENTED);
    assert_eq!(reserved["order"]["node"], last);
    let pools = reserved["now"]["pools"].as_array().expect("a list");
    let of_nodes: Vec<&Value> = pools
        .iter()
        .filter(|pool| pool["page_bytes"] == BLOCK.0 && !pool["node"].is_null())
        .collect();
    let printed = text(&recoup(&["pool", "status"]).stdout);
    if nodes.len() == 1 {
        assert!(of_nodes.is_empty(), "{of_nodes:?}");
        return;
    }
    let numbers: Vec<_> = of_nodes.iter().map(|pool| pool["node"].clone()).collect();
    assert_eq!(numbers, nodes.iter().map(|node| Value::from(node.0)).collect::<Vec<_>>());
    assert!(of_nodes.last().expect("a node")["total"].as_u64() >= Some(3));
    let line = printed.lines().find(|line| line.starts_with(&format!("2M     {last} ")));
    assert!(line.is_some_and(|line| line.contains(" 3 ")), "{printed}");
}

#[test]
fn a_huge_gigabyte_is_reserved_split_and_released() {
    require!(has_pools(), POOLS);
    let pages = HugePages::reserve(&[(BLOCK, 0), (PMD_TABLE_SPAN, 0)]);
    require!(pages.is_ok(), "hugetlb pages of 1 GiB");
    let (large, before) = (total(PMD_TABLE_SPAN), total(BLOCK));
    let reserved = pool(&["reserve", "--size", "1G", "--pages", "2"]);
    require_in_guest!("gigabytes", reserved["order"]["done"] == 2, FRAGMENTED);
    assert_eq!(total(PMD_TABLE_SPAN), large + 2);
    let split = pool(&["demote", "--pages", "1"]);
    assert_eq!((total(PMD_TABLE_SPAN), total(BLOCK)), (large + 1, before + 512));
    assert_eq!((&split["order"]["done"], &split["order"]["action"]), (&1.into(), &"demote".into()));
    assert_eq!(*small(&split["now"], "total"), before + 512);
}

#[test]
fn what_cannot_be_done_is_said_with_what_can() {
    require!(has_pools(), POOLS);
    let _kept = kept();
    let too_many = (kernel::available_bytes() / BLOCK.0 * 2).to_string();
    let before = total(BLOCK);
    let output = recoup(&["pool", "reserve", "--size", "2M", "--pages", &too_many]);
    fails_with(&output, 1, &["of memory can be had; ask for fewer"]);
    assert_eq!(total(BLOCK), before);
    let output = recoup(&["pool", "reserve", "--size", "3M", "--pages", "1", "--optimise"]);
    fails_with(&output, 1, &["no huge pages of 3M", "2M"]);
    let output = recoup(&["pool", "release", "--size", "2M", "--all", "--node", "999"]);
    fails_with(&output, 1, &["node 999", "has_memory"]);
    let output = unprivileged(&["pool", "reserve", "--size", "2M", "--pages", "1"]);
    fails_with(&output, 1, &["nr_hugepages: Permission denied", "run as root"]);
    assert!(unprivileged(&["pool", "status"]).status.success());
    if let Ok(switch) = std::fs::read_to_string(OPTIMIZE_VMEMMAP) {
        assert_eq!(switch.trim(), "0", "an order that cannot be given switches nothing");
    }
}

#[test]
fn amounts_have_to_be_named_once() {
    fails_with(&recoup(&["pool", "reserve", "--size", "2M"]), 2, &["--pages", "--bytes"]);
    fails_with(&recoup(&["pool", "reserve", "--pages", "1"]), 2, &["--size"]);
    let both = ["pool", "reserve", "--size", "2M", "--pages", "1", "--bytes", "2M"];
    fails_with(&recoup(&both), 2, &["--bytes"]);
    fails_with(&recoup(&["pool", "release", "--size", "2M"]), 2, &["--pages", "--all"]);
    fails_with(&recoup(&["pool", "release", "--size", "2M", "--pages", "0"]), 2, &["--pages"]);
    fails_with(&recoup(&["pool", "release", "--size", "2X", "--all"]), 2, &["like 2M or 1G"]);
    fails_with(&recoup(&["pool", "demote"]), 2, &["--pages"]);
}
