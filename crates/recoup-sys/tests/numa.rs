//! Which node a page is on: held against `/proc/self/numa_maps`.

use recoup_sys::numa::{self, Node};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK, Pages};
use recoup_testkit::{require, require_in_guest};

/// What the kernel lists of the mapping that starts at the region.
fn line(region: &Region) -> String {
    let start = format!("{:x} ", region.pages().start.address());
    let maps = std::fs::read_to_string("/proc/self/numa_maps").expect("the mappings' nodes");
    maps.lines().find(|line| line.starts_with(&start)).unwrap_or_default().to_owned()
}

/// Where its memory may come from.
fn policy(region: &Region) -> String {
    line(region).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Its pages by node.
fn listed(region: &Region) -> Vec<(Node, u64)> {
    let line = line(region);
    let count = |word: &str| {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((Node(node.parse().ok()?), pages.parse().ok()?))
    };
    line.split(' ').filter_map(count).collect()
}

fn has_nodes() -> bool {
    std::path::Path::new("/proc/self/numa_maps").exists()
}

/// A region of base pages with a mapping of its own.
fn region() -> Region {
    let mut region = Region::new(BLOCK).expect("memory");
    region.advise(Pages(0), BLOCK.whole_pages(), OwnAdvice::BasePages).ok();
    region
}

#[test]
fn pages_bound_to_a_node_are_on_that_node() {
    require!(has_nodes(), "a kernel with NUMA");
    let nodes = numa::nodes_with_memory().expect("the list of nodes");
    assert!(!nodes.is_empty());
    for &node in &nodes {
        let mut region = region();
        numa::bind(region.pages(), node).expect("a node with memory");
        region.touch(Pages(0), BLOCK.whole_pages());
        assert_eq!(listed(&region), [(node, PAGES_PER_BLOCK as u64)]);
        let told = numa::node_of(region.pages().start + Pages(7)).expect("an answer");
        assert_eq!(told, Some(node));
    }
    println!("{} nodes", nodes.len());
}

#[test]
fn pages_that_are_there_stay_on_their_node() {
    require!(has_nodes(), "a kernel with NUMA");
    let nodes = numa::nodes_with_memory().expect("the list of nodes");
    require_in_guest!("numa", nodes.len() > 1, "two nodes with memory");
    let mut region = region();
    numa::bind(region.pages(), nodes[0]).expect("a node with memory");
    region.touch(Pages(0), Pages(8));
    numa::bind(region.pages(), nodes[1]).expect("a node with memory");
    region.touch(Pages(0), Pages(16));
    assert_eq!(listed(&region), [(nodes[0], 8), (nodes[1], 8)]);
    let told = |page| numa::node_of(region.pages().start + Pages(page)).expect("an answer");
    assert_eq!((told(7), told(8), told(16)), (Some(nodes[0]), Some(nodes[1]), None));
}

#[test]
fn what_was_bound_can_be_of_any_node_again() {
    require!(has_nodes(), "a kernel with NUMA");
    let node = numa::nodes_with_memory().expect("the list of nodes")[0];
    let region = region();
    numa::bind(region.pages(), node).expect("a node with memory");
    assert_eq!(policy(&region), format!("bind:{}", node.0));
    numa::unbind(region.pages()).expect("memory");
    assert_eq!(policy(&region), "default");
}

#[test]
fn no_page_is_on_no_node() {
    require!(has_nodes(), "a kernel with NUMA");
    let region = region();
    let page = region.pages().start;
    assert_eq!(numa::node_of(page).expect("an answer"), None);
    // Reading maps the shared zero page.
    assert_eq!(region.peek(0), 0);
    assert_eq!(numa::node_of(page).expect("an answer"), None);
}

#[test]
fn a_node_that_is_not_there_is_refused() {
    require!(has_nodes(), "a kernel with NUMA");
    let region = region();
    for node in [Node(63), Node(1023), Node(u32::MAX)] {
        let error = numa::bind(region.pages(), node).expect_err("no such node");
        assert!(error.to_string().contains(&format!("to {node}")), "{error}");
    }
}
