//! Owners whose process ends by a signal: all huge pages come back to the host.

use std::io::{Read, Write};

use recoup::pool::{HugeTlb, Pool};
use recoup_core::Chunks;
use recoup_sys::Bytes;
use recoup_sys::units::BLOCK;
use recoup_testkit::{HugePages, kernel, require};

use crate::common::{End, GIB, owner, shared, start, wait};

fn free() -> u64 {
    kernel::hugetlb(BLOCK.0, "free_hugepages").expect("a pool")
}

/// Has 8 huge pages in several ways, says so, and does the last thing.
fn victim(source: HugeTlb, mut ready: impl Write, last: impl FnOnce()) -> bool {
    let pool = Pool::new(source, Bytes(4 * GIB));
    let tenant = owner(&pool);
    let mut run = tenant.chunks(Chunks(4)).expect("chunks");
    run.fill(1);
    let movable = tenant.movable(Chunks(2)).expect("chunks");
    let _reads = movable.read();
    let _freed_and_kept = (tenant.chunk().map(drop), tenant.chunk());
    let pool = pool.clone();
    let _other = tenant.chunks(Chunks(1));
    let _ = pool.usage();
    ready.write_all(&[1]).expect("the test");
    last();
    false
}

fn ends_by(signal: i32, source: fn() -> HugeTlb, last: fn()) {
    let before = free();
    let (mut ready, is_ready) = std::io::pipe().expect("a pipe");
    let victim = start(move || victim(source(), is_ready, last));
    ready.read_exact(&mut [0]).expect("the victim");
    if signal == libc::SIGKILL {
        assert!(free() <= before - 7, "{before} {}", free());
        // SAFETY: the number of this test's own child, which was not waited for.
        assert_eq!(unsafe { libc::kill(victim, signal) }, 0);
    }
    assert_eq!(wait(victim), End::Signal(signal));
    assert_eq!(free(), before);
}

fn sleeps() {
    std::thread::sleep(std::time::Duration::from_secs(20));
}

fn touches_nothing() {
    let nothing = std::ptr::without_provenance_mut::<u8>(8);
    // SAFETY: there is none: that is the crash.
    unsafe { nothing.write_volatile(1) };
}

#[test]
fn huge_pages_come_back_from_a_process_that_is_killed_or_crashes() {
    let guard = HugePages::reserve(&[(BLOCK, 16)]);
    require!(guard.is_ok(), "16 huge pages of 2 MiB");
    let private = || HugeTlb::two_mib().expect("huge pages");
    let shared = || shared(HugeTlb::two_mib().expect("huge pages"));
    for source in [private as fn() -> HugeTlb, shared] {
        ends_by(libc::SIGKILL, source, sleeps);
        ends_by(libc::SIGSEGV, source, touches_nothing);
    }
}
