//! Owners whose memory is of one NUMA node.

use recoup::pool::{OwnerOptions, Pool, Thp};
use recoup_sys::numa::{Node, node_of, nodes_with_memory};
use recoup_sys::{Bytes, Pages};
use recoup_testkit::require_in_guest;

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
    let owner = pool.owner(OwnerOptions::default().node(beyond)).expect("addresses");
    let error = owner.chunk().expect_err("no such node").to_string();
    assert!(error.contains("bind") && error.contains("has_memory"), "{error}");
    require_in_guest!("numa", nodes.len() > 1, "2 NUMA nodes");
}
