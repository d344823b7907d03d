//! Owners whose memory is of one NUMA node.

use recoup::pool::{OwnerOptions, Pool, Thp};
use recoup_sys::numa::{Node, node_of, nodes_with_memory};
use recoup_sys::{Bytes, Pages};
use recoup_testkit::{require, require_in_guest};

use crate::common::{gigabyte_around, memfd, owner};

/// Where memory at an address may come from, as the kernel lists it.
fn policy_at(bytes: &[u8]) -> String {
    let start = gigabyte_around(bytes).start;
    let maps = std::fs::read_to_string("/proc/self/numa_maps").expect("the mappings' nodes");
    let line = maps.lines().find_map(|line| line.strip_prefix(&format!("{start:x} ")));
    line.and_then(|line| line.split(' ').next()).expect("a mapping").to_owned()
}

/// A memfd keeps the node of what was mapped.
#[test]
fn a_gigabyte_forgets_its_node_with_its_owner() {
    require!(std::path::Path::new("/proc/self/numa_maps").exists(), "a kernel with NUMA");
    let node = nodes_with_memory().expect("a list of nodes")[0];
    let pool = Pool::new(memfd(), Bytes(2 << 30));
    let everywhere = owner(&pool);
    for options in [OwnerOptions::default(), OwnerOptions::default().apart()] {
        let bound = pool.owner(options.node(node)).expect("an owner");
        let extent = bound.chunk().expect("a chunk");
        assert_eq!(policy_at(&extent), format!("bind:{}", node.0));
        drop((extent, bound));
        pool.trim();
        assert_eq!(pool.usage().attached, Bytes(0));
        // The same gigabyte of the file.
        let extent = everywhere.chunk().expect("a chunk");
        assert_eq!(policy_at(&extent), "default");
        drop(extent);
        pool.trim();
    }
}

#[test]
fn an_owner_gets_memory_of_its_node() {
    let nodes = nodes_with_memory().expect("a list of nodes");
    let pool = Pool::new(Thp::private(), Bytes(4 << 30));
    for &node in &nodes {
        let owner = pool.owner(OwnerOptions::default().node(node)).expect("an owner");
        let mut extents: Vec<_> = (0..5).map(|_| owner.chunk().expect("a chunk")).collect();
        for extent in &mut extents {
            extent.fill(1);
            let pages = extent.page_range();
            for page in [pages.start, pages.start + Pages(511)] {
                assert_eq!(node_of(page).expect("a page that is there"), Some(node));
            }
        }
    }
    assert_eq!(pool.audit().expect("pagemap").violations, []);
    let beyond = Node(nodes.iter().map(|node| node.0).max().unwrap_or(0) + 1);
    let owner = pool.owner(OwnerOptions::default().node(beyond));
    let error = owner.expect_err("no such node").to_string();
    assert!(error.contains("bind") && error.contains("has_memory"), "{error}");
    require_in_guest!("numa", nodes.len() > 1, "2 NUMA nodes");
}
