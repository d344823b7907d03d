//! A program whose blocks of a page and more are a pool's, the others jemalloc's: so that the pool's own
//! books need blocks that are large.

#[path = "global/stress.rs"]
mod stress;

use std::time::Duration;

use recoup::pool::{Large, LargeOptions, ReturnSettings};
use recoup_sys::Bytes;
use tikv_jemallocator::Jemalloc;

/// The books of a terabyte take 2.5 MiB.
#[global_allocator]
static ALLOCATOR: Large<Jemalloc> =
    Large::with(Jemalloc, LargeOptions::new().threshold(512).limit(Bytes(1 << 40)));

#[test]
fn many_threads_over_jemalloc() {
    let settings = ReturnSettings {
        threshold: 2,
        deadline: Duration::from_millis(1),
        ..ReturnSettings::default()
    };
    let background = ALLOCATOR.return_in_background(settings).expect("a thread");
    let usage = ALLOCATOR.usage().expect("a pool");
    assert!(usage.bookkeeping > Bytes(2 << 20), "{usage:?}");
    stress::run(6, 3000);
    let returned = background.stop();
    assert!(returned.bytes > Bytes(0) && returned.failed == 0, "{returned:?}");
    // What was only read goes, which older kernels don't tell from what is somebody else's.
    ALLOCATOR.trim();
    assert_eq!(ALLOCATOR.audit().expect("a pool").expect("pagemap").violations, []);
    let held = ALLOCATOR.usage().expect("a pool").held;
    assert!(held < Bytes(64 << 20), "what the harness has: {held:?}");
}
