//! A program whose large blocks come from a pool: after a peak, its memory goes back by itself.
//!
//!     cargo run --release -p recoup --example pool_allocator

use std::alloc::System;
use std::error::Error;
use std::time::{Duration, Instant};

use recoup::pool::{Bytes, Large, ReturnSettings};
use recoup_testkit::kernel::status_bytes;

#[global_allocator]
static ALLOCATOR: Large<System> = Large::new(System);

fn main() -> Result<(), Box<dyn Error>> {
    let settings =
        ReturnSettings { deadline: Duration::from_millis(10), ..ReturnSettings::default() };
    let background = ALLOCATOR.return_in_background(settings)?;
    show("at first")?;
    let threads: Vec<_> =
        (1..5_u64).map(|number| std::thread::spawn(move || peak(number))).collect();
    let sums: Vec<u64> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
    show("four threads have had 256 MiB each")?;
    let began = Instant::now();
    while ALLOCATOR.usage().is_some_and(|usage| usage.warm > Bytes(0))
        && began.elapsed() < Duration::from_secs(10)
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    show(&format!("{:.0?} later", began.elapsed()))?;
    println!("{} MiB went back; sums {sums:?}", background.stop().bytes.0 >> 20);
    Ok(())
}

/// Blocks that grow, all there at the same time.
fn peak(number: u64) -> u64 {
    let mut blocks = vec![Vec::new(); 16];
    for block in &mut blocks {
        block.extend((0..2 << 20).map(|place| place * number));
    }
    blocks.iter().flatten().sum()
}

fn show(when: &str) -> Result<(), Box<dyn Error>> {
    let resident = status_bytes(i32::try_from(std::process::id())?, "VmRSS");
    println!("{when:36} {:6} MiB resident", resident >> 20);
    Ok(())
}
