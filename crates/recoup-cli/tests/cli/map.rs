//! The picture of an address space.

use recoup_testkit::{HostSetting, Workload, kernel, require};

use crate::{recoup, text};

/// A workload with one 2 MiB block of each kind, in this order.
fn one_of_each(workload: &mut Workload) {
    workload.map("map a 3584 huge");
    workload.tell("fill a 0 512 512 1");
    workload.tell("fill a 512 512 512 1");
    workload.tell("discard a 522 400 512 1");
    workload.tell("base a 1024 2560 2560 1");
    workload.tell("fill a 1024 512 512 1");
    workload.tell("fill a 1536 512 512 1");
    workload.tell("free a 1536 512 512 1");
    workload.tell("peek a 2048 1 512");
    workload.tell("touch a 2560 1 512 1");
    workload.tell("discard a 2560 1 512 1");
}

#[test]
fn every_kind_can_be_told_apart_on_the_terminal() {
    require!(kernel::is_root(), "root");
    require!(kernel::shows_page_tables(), "a kernel that shows empty tables (Linux 6.7 to 7.2)");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    one_of_each(&mut workload);
    let output = recoup(&["report", "--pid", &workload.pid().to_string(), "--map"]);
    let printed = text(&output.stdout);
    assert!(printed.contains("  #O+lze"), "{printed}");
}

#[test]
fn the_picture_has_a_square_with_its_contents_for_each_block() {
    require!(kernel::is_root(), "root");
    require!(kernel::shows_page_tables(), "a kernel that shows empty tables (Linux 6.7 to 7.2)");
    let _thp = HostSetting::huge_pages("madvise");
    let mut workload = Workload::start();
    one_of_each(&mut workload);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.svg");
    let flag = format!("--map={}", path.display());
    assert!(recoup(&["report", "--pid", &workload.pid().to_string(), &flag]).status.success());
    let picture = std::fs::read_to_string(&path).expect("the picture");
    for content in [
        "512 pages: whole huge page",
        "400 pages: hole of a huge page",
        "512 pages: shared zero page",
        "512 pages: empty page table",
        "pages: lazily freed",
    ] {
        assert!(picture.contains(content), "{content}");
    }
}
