//! Orders to the pools of huge pages do what they say they did: held against sysfs, `/proc/vmstat` and
//! `/proc/meminfo`, read without the code under test.

use recoup_sys::hugetlb::{
    self, Action, Change, Joining, OPTIMIZE_VMEMMAP, Order, Place, Snapshot,
};
use recoup_sys::numa::{self, Node};
use recoup_sys::own::Backing;
use recoup_sys::region::Region;
use recoup_sys::units::{BLOCK, PAGE, PAGES_PER_BLOCK, PMD_TABLE_SPAN, Pages};
use recoup_sys::{Bytes, Error};
use recoup_testkit::kernel::struct_pages;
use recoup_testkit::{HugePages, kernel, require, require_in_guest};

const POOLS: &str = "root, and hugetlb pages of 2 MiB";
const FRAGMENTED: &str = "memory that is not too fragmented for huge pages";

fn pool(page_size: Bytes, file: &str) -> u64 {
    kernel::hugetlb(page_size.0, file).expect("the pool")
}

fn has_pools() -> bool {
    kernel::is_root() && kernel::hugetlb(BLOCK.0, "nr_hugepages").is_some()
}

fn order(action: Action, page_size: Bytes, pages: u64) -> Change {
    let order = Order { place: Place::Host, page_size, action, pages };
    order.carry_out().expect("an order that can be given")
}

fn said(change: &Change) -> String {
    change.shortfall.map_or_else(String::new, |shortfall| shortfall.to_string())
}

#[test]
fn pages_come_and_go_as_ordered() {
    require!(has_pools(), POOLS);
    let _kept = HugePages::reserve(&[(BLOCK, 0)]).expect("none are asked for");
    let before = pool(BLOCK, "nr_hugepages");
    let came = order(Action::Reserve, BLOCK, 16);
    require!(came.shortfall.is_none(), FRAGMENTED);
    assert_eq!((came.done, pool(BLOCK, "nr_hugepages")), (16, before + 16));
    let went = order(Action::Release, BLOCK, 10);
    assert_eq!((went.done, pool(BLOCK, "nr_hugepages")), (10, before + 6));
    assert_eq!(went.before.pool(Place::Host, BLOCK).expect("the pool").total, before + 16);
    assert_eq!(went.after.pool(Place::Host, BLOCK).expect("the pool").total, before + 6);
    assert!(went.shortfall.is_none());
}

#[test]
fn pages_in_use_or_promised_stay_in_the_pool_with_what_is_in_them() {
    require!(has_pools(), POOLS);
    let pages = HugePages::reserve(&[(BLOCK, 4)]);
    require!(pages.is_ok(), FRAGMENTED);
    let before = pool(BLOCK, "nr_hugepages");
    let idle = pool(BLOCK, "free_hugepages") - pool(BLOCK, "resv_hugepages");
    let mapped = Region::of(Backing::HugeTlbPrivate(BLOCK), Bytes(3 * BLOCK.0));
    let mut region = mapped.expect("free pages");
    region.write(0, b"first");
    region.write(PAGES_PER_BLOCK * 4096, b"second");
    let change = order(Action::Release, BLOCK, idle);
    assert_eq!(change.done, idle - 3);
    assert_eq!(pool(BLOCK, "nr_hugepages"), before - (idle - 3));
    assert_eq!((pool(BLOCK, "surplus_hugepages"), pool(BLOCK, "resv_hugepages")), (0, 1));
    assert!(said(&change).contains("in use or promised"), "{}", said(&change));
    // The promise is kept.
    region.write(2 * PAGES_PER_BLOCK * 4096, b"third");
    let mut bytes = [0; 6];
    region.read(PAGES_PER_BLOCK * 4096, &mut bytes);
    assert_eq!(&bytes, b"second");
}

#[test]
fn surplus_pages_are_told_apart_and_nothing_is_released_in_their_place() {
    require!(has_pools(), POOLS);
    let pages = HugePages::reserve(&[(BLOCK, 2)]);
    require!(pages.is_ok(), FRAGMENTED);
    require!(pool(BLOCK, "nr_hugepages") == 2, "a pool that nobody else uses");
    let mut region = Region::of(Backing::HugeTlbPrivate(BLOCK), BLOCK).expect("a free page");
    region.touch(Pages(0), Pages(1));
    let file = format!("{}/hugepages-2048kB/nr_hugepages", hugetlb::DIRECTORY);
    std::fs::write(file, "0").expect("the pool can be made smaller");
    assert_eq!(pool(BLOCK, "surplus_hugepages"), 1);
    let now = Snapshot::take().expect("the pools").pool(Place::Host, BLOCK).expect("the pool");
    assert_eq!((now.total, now.surplus, now.persistent(), now.releasable()), (1, 1, 0, 0));
    assert_eq!(order(Action::Release, BLOCK, 1).done, 0);
    // The page in use becomes one of the pool's own: nothing new is needed.
    assert_eq!(order(Action::Reserve, BLOCK, 1).done, 1);
    assert_eq!((pool(BLOCK, "nr_hugepages"), pool(BLOCK, "surplus_hugepages")), (1, 0));
}

#[test]
fn more_than_there_is_is_not_even_tried() {
    require!(has_pools(), POOLS);
    let _kept = HugePages::reserve(&[(BLOCK, 0)]).expect("none are asked for");
    let before = pool(BLOCK, "nr_hugepages");
    let change = order(Action::Reserve, BLOCK, kernel::available_bytes() / BLOCK.0 * 2);
    assert_eq!((change.done, pool(BLOCK, "nr_hugepages")), (0, before));
    assert!(said(&change).contains("ask for fewer"), "{}", said(&change));
}

#[test]
fn optimised_pages_free_seven_of_eight_of_their_struct_pages_until_they_leave() {
    require!(has_pools(), POOLS);
    require!(hugetlb::vmemmap_optimised().is_some(), "CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP");
    require!(struct_pages() > 0, "a kernel that counts its struct pages (Linux 6.11)");
    let kept = HugePages::reserve_with(&[(OPTIMIZE_VMEMMAP, "0")], &[(BLOCK, 0)]);
    let _kept = kept.expect("none are asked for");
    let before = struct_pages();
    require!(order(Action::Reserve, BLOCK, 8).shortfall.is_none(), FRAGMENTED);
    assert_eq!(struct_pages(), before, "the setting is off");
    assert!(hugetlb::set_vmemmap(Joining::Optimised).expect("a setting"));
    let setting = std::fs::read_to_string(OPTIMIZE_VMEMMAP).expect("the setting");
    assert_eq!(setting.trim(), "1");
    let change = order(Action::Reserve, BLOCK, 32);
    require!(change.shortfall.is_none(), FRAGMENTED);
    assert_eq!(before - struct_pages(), 32 * 7);
    let told = |at: &Snapshot| at.struct_pages.expect("just seen that it counts").saved();
    assert_eq!(told(&change.after) - told(&change.before), Pages(32 * 7).bytes());
    assert_eq!(order(Action::Release, BLOCK, 40).done, 40);
    assert_eq!(struct_pages(), before);
    assert!(!hugetlb::set_vmemmap(Joining::Plain).expect("a setting"));
}

#[test]
fn struct_pages_take_a_64th_of_memory_when_nothing_is_optimised() {
    require!(struct_pages() > 0, "a kernel that counts its struct pages (Linux 6.11)");
    let _kept = HugePages::reserve(&[(BLOCK, 0)]).expect("none are asked for");
    require!(pool(BLOCK, "nr_hugepages") == 0, "a pool that nobody else uses");
    let told = hugetlb::struct_pages().expect("just seen that it counts");
    assert_eq!((told.now, told.saved()), (told.plain, Bytes::ZERO));
    let memory = kernel::meminfo_bytes("MemTotal");
    assert!(told.plain.0 * 64 >= memory && told.plain.0 * 64 < memory + memory / 2, "{told:?}");
}

#[test]
fn huge_gigabytes_free_their_struct_pages_and_memory_grows_by_those_from_boot() {
    require!(has_pools(), POOLS);
    require!(struct_pages() > 0, "a kernel that counts its struct pages (Linux 6.11)");
    let kept = [(BLOCK, 0), (PMD_TABLE_SPAN, 0)];
    let kept = HugePages::reserve_with(&[(OPTIMIZE_VMEMMAP, "1")], &kept);
    require!(kept.is_ok(), "hugetlb pages of 1 GiB");
    let (counted, memory) = (struct_pages(), kernel::meminfo_bytes("MemTotal"));
    let from_boot = kernel::vmstat("nr_memmap_boot_pages");
    let pages = 2;
    let change = order(Action::Reserve, PMD_TABLE_SPAN, pages);
    require_in_guest!("gigabytes", change.shortfall.is_none(), FRAGMENTED);
    assert_eq!(counted - struct_pages(), pages * 4095);
    let freed_from_boot = from_boot - kernel::vmstat("nr_memmap_boot_pages");
    let grown = kernel::meminfo_bytes("MemTotal") - memory;
    assert_eq!(grown, Pages(freed_from_boot).bytes().0);
    assert_eq!(change.after.memory - change.before.memory, Bytes(grown));
    println!("{pages} pages of 1 GiB: MemTotal grew by {} MiB", grown >> 20);
    assert_eq!(order(Action::Release, PMD_TABLE_SPAN, pages).done, pages);
    assert_eq!(struct_pages(), counted);
    // They are rebuilt from ordinary memory: MemTotal says nothing of what is saved now.
    assert_eq!(kernel::meminfo_bytes("MemTotal"), memory + grown);
}

#[test]
fn a_huge_gigabyte_becomes_512_smaller_pages_unless_it_is_in_use() {
    require!(has_pools(), POOLS);
    let pages = HugePages::reserve(&[(BLOCK, 0), (PMD_TABLE_SPAN, 2)]);
    require_in_guest!("gigabytes", pages.is_ok(), "2 free huge pages of 1 GiB");
    let (large, small) = (pool(PMD_TABLE_SPAN, "nr_hugepages"), pool(BLOCK, "nr_hugepages"));
    let backing = Backing::HugeTlbPrivate(PMD_TABLE_SPAN);
    let mut region = Region::of(backing, PMD_TABLE_SPAN).expect("a free page");
    region.write(0, b"in use");
    let demote = Action::Demote { into: BLOCK };
    let change = order(demote, PMD_TABLE_SPAN, large);
    let seen = (pool(PMD_TABLE_SPAN, "nr_hugepages"), pool(BLOCK, "nr_hugepages"));
    assert_eq!(change.done, large - 1);
    assert_eq!(seen, (1, small + 512 * (large - 1)));
    assert!(said(&change).contains("in use or promised"), "{}", said(&change));
    let mut bytes = [0; 6];
    region.read(0, &mut bytes);
    assert_eq!(&bytes, b"in use");
}

#[test]
fn pages_of_a_node_come_to_that_node_only() {
    require!(has_pools(), POOLS);
    let _kept = HugePages::reserve(&[(BLOCK, 0)]).expect("none are asked for");
    let nodes = numa::nodes_with_memory().expect("the list of nodes");
    let last = *nodes.last().expect("a node");
    let of_node = |node: Node| {
        let file = node.directory().join("hugepages/hugepages-2048kB/nr_hugepages");
        let text = std::fs::read_to_string(file).expect("the node's pool");
        text.trim().parse::<u64>().expect("a number")
    };
    let before: Vec<u64> = nodes.iter().map(|&node| of_node(node)).collect();
    let order =
        |action| Order { place: Place::Node(last), page_size: BLOCK, action, pages: 6 }.carry_out();
    let change = order(Action::Reserve).expect("an order");
    require!(change.shortfall.is_none(), FRAGMENTED);
    let mut expected = before.clone();
    *expected.last_mut().expect("a node") += 6;
    let after: Vec<u64> = nodes.iter().map(|&node| of_node(node)).collect();
    assert_eq!((change.done, after), (6, expected));
    assert_eq!(order(Action::Release).expect("an order").done, 6);
    assert_eq!(nodes.iter().map(|&node| of_node(node)).collect::<Vec<_>>(), before);
}

#[test]
fn sizes_and_nodes_that_are_not_there_are_errors_that_name_those_that_are() {
    require!(kernel::hugetlb(BLOCK.0, "nr_hugepages").is_some(), POOLS);
    let error = |place, page_size, action| {
        let order = Order { place, page_size, action, pages: 1 };
        order.carry_out().expect_err("no such thing").to_string()
    };
    let text = error(Place::Host, Bytes(3 << 20), Action::Reserve);
    assert!(text.contains("no huge pages of 3M: name one of its sizes: 2M"), "{text}");
    let text = error(Place::Node(Node(999)), BLOCK, Action::Release);
    assert!(text.contains("node 999 has no huge pages of 2M"), "{text}");
    let text = error(Place::Host, BLOCK, Action::Demote { into: PAGE });
    assert!(text.contains("no huge pages of 4K"), "{text}");
}

#[test]
fn pages_are_not_split_into_what_they_are() {
    require!(kernel::hugetlb(BLOCK.0, "nr_hugepages").is_some(), POOLS);
    let action = Action::Demote { into: BLOCK };
    let order = Order { place: Place::Host, page_size: BLOCK, action, pages: 1 };
    let error = order.carry_out().expect_err("the same size");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(
        error.to_string().contains("pages of 2M cannot become pages of 2M: name a smaller"),
        "{error}"
    );
}
