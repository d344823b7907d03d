//! No privilege is needed: what root's tests show also holds for a process of nobody's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use recoup::SplitPolicy::{Bounded, Sync};
use recoup::discard::Discarder;
use recoup_sys::{Bytes, Pages};
use recoup_testkit::workload::{charge, own_cgroup};
use recoup_testkit::{HostSetting, kernel, require};

use crate::common::{HUGE_PAGES, MIB, PER_BLOCK, huge};

const THPS: u64 = 64;
const NOBODY: u32 = 65534;
/// What makes the child test below do something.
const CHILD: &str = "RECOUP_TEST_CHILD";

#[test]
fn without_any_privilege_the_charge_falls_all_the_same() {
    require!(kernel::is_root(), "root, to become nobody");
    let _thp = HostSetting::huge_pages("madvise");
    let cgroup = own_cgroup("nobody");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    // Where nobody may read it, unlike perhaps the place where it was built.
    let directory = tempfile::tempdir().expect("a directory");
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable).expect("permissions");
    let program = directory.path().join("tests");
    std::fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    let child = Command::new(&program)
        .args(["--exact", "unprivileged::as_nobody", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Nobody(child.expect("a child"));
    cgroup.add(i32::try_from(child.0.id()).expect("a pid")).expect("it can be moved");
    let mut said = BufReader::new(child.0.stdout.take().expect("its output")).lines();
    let mut next = |told: &str| {
        let mut line = || said.next().expect("the child goes on").expect("text");
        let line = std::iter::repeat_with(&mut line).find(|line| line.starts_with(told));
        line.expect("endless").split_off(told.len())
    };
    writeln!(child.0.stdin.as_mut().expect("its input")).expect("it listens");

    require!(next("huge ") == "true", HUGE_PAGES);
    let full = charge(&cgroup);
    writeln!(child.0.stdin.as_mut().expect("its input")).expect("it listens");
    let waiting: u64 = next("waits ").parse().expect("a number");
    if kernel::version() >= (6, 7) {
        assert!(waiting > 4 * MIB, "whole huge pages are recognised: {waiting} bytes wait");
    }
    let fell = full.saturating_sub(charge(&cgroup));
    let given_back = THPS * (PER_BLOCK - 1) * 4096;
    assert!(fell + 8 * MIB + 2 * MIB >= given_back, "the charge fell by {fell} of {given_back}");
    writeln!(child.0.stdin.as_mut().expect("its input")).expect("it listens");
    assert!(child.0.wait().expect("a child").success());
}

/// Ends with the test.
struct Nobody(Child);

impl Drop for Nobody {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "another test starts this one, as nobody"]
fn as_nobody() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let wait = || std::io::stdin().lock().read_line(&mut String::new()).expect("a line");
    wait();
    let region = huge(THPS);
    println!("\nhuge {}", region.is_some());
    let Some(mut region) = region else { return };
    wait();
    let discarder = Discarder::new();
    for block in 0..THPS {
        // Half of them at once, half of them up to a bound.
        let policy = if block % 2 == 0 { Sync } else { Bounded(Bytes(8 * MIB)) };
        let released = region.release(Pages(block * PER_BLOCK + 1), Pages(PER_BLOCK - 1));
        discarder.discard(released, policy).expect("given back");
    }
    // The last of those that may wait do so.
    let released = region.release(Pages(0), Pages(1));
    discarder.discard(released, Bounded(Bytes(8 * MIB))).expect("given back");
    println!("\nwaits {}", discarder.waiting().0);
    wait();
}
