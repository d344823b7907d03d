//! The headroom is what can really be taken.

use std::path::{Path, PathBuf};

use recoup::discard::{Discarder, SplitPolicy};
use recoup::headroom::{Limit, headroom};
use recoup_sys::cgroup::Cgroup;
use recoup_sys::{Bytes, Pages};
use recoup_testkit::workload::InOwnCgroup;
use recoup_testkit::{HostSetting, kernel, require};

use crate::common::{HUGE_PAGES, MIB, PER_BLOCK, huge};

fn limit(cgroup: &Path, bytes: u64) {
    let files = ["memory.limit_in_bytes", "memory.max"].map(|name| cgroup.join(name));
    let file = files.iter().find(|file| file.exists()).expect("a file for the limit");
    std::fs::write(file, bytes.to_string()).expect("a limit");
}

#[test]
fn the_nearest_limit_of_nested_cgroups_counts() {
    require!(kernel::is_root(), "root");
    let _one_at_a_time = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("headroom");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");

    let unlimited = headroom(Bytes::ZERO).expect("a headroom");
    let available = kernel::available_bytes();
    let Limit::Host { .. } = unlimited.limited_by else { panic!("{:?}", unlimited.limited_by) };
    assert!(unlimited.bytes.0.abs_diff(available) < available / 4);

    limit(in_group.cgroup().path(), 512 * MIB);
    let limited = headroom(Bytes(3 * MIB)).expect("a headroom");
    assert_eq!(limited.limited_by.path(), Some(in_group.cgroup().path()));
    let expected = 512 * MIB - in_group.charge() + 3 * MIB;
    assert!(limited.bytes.0.abs_diff(expected) < 4 * MIB, "{limited:?}, not {expected}");

    let inner = Inner::enter(in_group.cgroup());
    let nested = headroom(Bytes::ZERO).expect("a headroom");
    assert_eq!(nested.limited_by.path(), Some(in_group.cgroup().path()), "from two levels below");
    drop(inner);
}

/// This process in a cgroup below another one.
struct Inner<'a> {
    outer: &'a Cgroup,
    path: PathBuf,
}

impl<'a> Inner<'a> {
    fn enter(outer: &'a Cgroup) -> Self {
        let path = outer.path().join("inner");
        std::fs::create_dir(&path).expect("a cgroup below");
        let pid = std::process::id().to_string();
        std::fs::write(path.join("cgroup.procs"), pid).expect("this process moves");
        Self { outer, path }
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        self.outer.add(kernel::own_pid()).expect("this process moves back");
        std::fs::remove_dir(&self.path).expect("an empty cgroup goes");
    }
}

#[test]
fn what_waits_for_a_split_is_counted_in_and_can_be_taken() {
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let in_group = InOwnCgroup::enter("returnable");
    require!(in_group.is_some(), "a memory cgroup of its own");
    let in_group = in_group.expect("just looked");
    limit(in_group.cgroup().path(), 256 * MIB);
    let region = huge(64);
    require!(region.is_some(), HUGE_PAGES);
    let mut region = region.expect("just looked");

    let discarder = Discarder::new();
    let before = discarder.headroom().expect("a headroom");
    for block in 0..64 {
        let released = region.release(Pages(block * PER_BLOCK), Pages(PER_BLOCK - 1));
        discarder.discard(released, SplitPolicy::Bounded(Bytes(u64::MAX))).expect("given back");
    }
    let after = discarder.headroom().expect("a headroom");
    let gained = after.bytes.0 - before.bytes.0;
    let given_back = 64 * (PER_BLOCK - 1) * 4096;
    assert!(gained.abs_diff(given_back) < 4 * MIB, "{gained}, not {given_back}");
    assert_eq!(after.returnable.0, given_back);

    // Once split it is really there: more than what was left before fits in.
    discarder.split_waiting(Bytes::ZERO).expect("splits");
    let room = discarder.headroom().expect("a headroom").bytes.0;
    assert!(room > before.bytes.0 + given_back - 4 * MIB);
    let taken = huge((room - 8 * MIB) / (2 * MIB));
    require!(taken.is_some(), HUGE_PAGES);
}
