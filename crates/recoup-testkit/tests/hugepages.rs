//! The guard of huge pages: that they are there, and are given back, whatever ends the test.

use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use recoup_sys::Bytes;
use recoup_sys::own::Backing;
use recoup_sys::region::Region;
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN, Pages};
use recoup_testkit::{HugePages, kernel, require};

/// What the test below tells when it holds its pages.
const HELD: &str = "holds huge pages";

/// The size of the pool, without pages that stay only as long as somebody uses them: those that other
/// tests of this file leak.
fn size() -> Option<u64> {
    let surplus = kernel::hugetlb(BLOCK.0, "surplus_hugepages")?;
    Some(kernel::hugetlb(BLOCK.0, "nr_hugepages")? - surplus)
}

/// The size of the pool while nobody else changes it.
fn size_between_tests() -> u64 {
    let _lock = HugePages::reserve(&[(BLOCK, 0)]).expect("none are asked for");
    size().expect("the pool")
}

fn huge_page() -> Region {
    let mut region = Region::of(Backing::HugeTlbPrivate(BLOCK), BLOCK).expect("a huge page");
    region.touch(Pages(0), Pages(1));
    region
}

#[test]
fn pages_are_there_until_the_guard_is_dropped() {
    require!(kernel::is_root() && size().is_some(), "root, and hugetlb pages of 2 MiB");
    let before = size_between_tests();
    let pages = HugePages::reserve(&[(BLOCK, 3)]);
    require!(pages.is_ok(), "3 free huge pages of 2 MiB");
    assert!(kernel::hugetlb(BLOCK.0, "free_hugepages") >= Some(3));
    drop(pages);
    assert_eq!(size_between_tests(), before);
}

#[test]
fn a_machine_that_cannot_give_as_many_says_how_many_and_keeps_none() {
    require!(kernel::is_root() && size().is_some(), "root, and hugetlb pages of 2 MiB");
    let before = size_between_tests();
    let unknown = HugePages::reserve(&[(BLOCK, 1), (Bytes(3 << 20), 1)]).expect_err("no such size");
    assert_eq!(unknown.to_string(), "1 free huge pages of 3M, 0 were to be had");
    let gigabytes = kernel::hugetlb(PMD_TABLE_SPAN.0, "nr_hugepages");
    require!(gigabytes.is_some(), "hugetlb pages of 1 GiB");
    // More than the machine has: of this size the kernel stops at the first that it can't find.
    let too_many = kernel::meminfo_bytes("MemTotal") / PMD_TABLE_SPAN.0 + 1;
    let wanted = [(BLOCK, 1), (PMD_TABLE_SPAN, too_many)];
    let said = HugePages::reserve(&wanted).expect_err("more than there is").to_string();
    assert!(said.starts_with(&format!("{too_many} free huge pages of 1G, ")), "{said}");
    assert_eq!(size_between_tests(), before);
    assert_eq!(kernel::hugetlb(PMD_TABLE_SPAN.0, "nr_hugepages"), gigabytes);
}

#[test]
fn a_page_that_a_test_leaks_is_noticed_and_all_others_are_given_back() {
    require!(kernel::is_root() && size().is_some(), "root, and hugetlb pages of 2 MiB");
    let before = size_between_tests();
    let pages = HugePages::reserve(&[(BLOCK, 2)]);
    require!(pages.is_ok(), "2 free huge pages of 2 MiB");
    // Two, since the next test's may be let go meanwhile.
    let leaked = [huge_page(), huge_page()];
    let noticed = catch_unwind(AssertUnwindSafe(|| drop(pages)));
    drop(leaked);
    assert!(noticed.is_err());
    assert_eq!(size_between_tests(), before);
}

#[test]
fn a_panic_gives_them_back_and_stays_the_only_one() {
    require!(kernel::is_root() && size().is_some(), "root, and hugetlb pages of 2 MiB");
    let before = size_between_tests();
    let panicked = catch_unwind(|| {
        let pages = HugePages::reserve(&[(BLOCK, 2)]);
        // Dropped before the page: a second panic while the first one unwinds would end the process.
        let (_page, _pages) = (huge_page(), pages);
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert_eq!(size_between_tests(), before);
}

#[test]
#[ignore = "holds huge pages until it is killed, for the next test"]
fn holder() {
    let _pages = HugePages::reserve(&[(BLOCK, 5)]).expect("5 huge pages");
    println!("{HELD}");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn the_next_guard_gives_back_what_a_killed_test_held() {
    require!(kernel::is_root() && size().is_some(), "root, and hugetlb pages of 2 MiB");
    let before = size_between_tests();
    let this = std::env::current_exe().expect("this program");
    let mut killed = Command::new(this)
        .args(["--exact", "holder", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(killed.stdout.take().expect("its output")).lines();
    let held = lines.map_while(Result::ok).any(|line| line.contains(HELD));
    let while_held = size();
    killed.kill().expect("a child");
    killed.wait().expect("a child");
    assert!(held, "the holder got no pages");
    assert!(while_held >= Some(before + 5));
    assert_eq!(size_between_tests(), before);
}
