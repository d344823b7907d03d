//! Frees memory behind its owner's back: a mapping that goes, and memory whose addresses stay.
//!
//!     cargo run --release -p recoup --example background

use std::error::Error;
use std::time::{Duration, Instant};

use recoup::teardown::{OwnedMapping, Workers, free_in_background, unmap_later};
use recoup::{Bytes, Pages, Region};

const LENGTH: Bytes = Bytes(256 << 20);

fn main() -> Result<(), Box<dyn Error>> {
    let mapping = OwnedMapping::from(touched()?);
    let began = Instant::now();
    let unmapping = unmap_later(mapping)?;
    println!("unmap_later kept its caller for {:.0?}", began.elapsed());
    unmapping.join().map_err(|_| "the thread that unmaps has panicked")?;
    println!("and was done after {:.0?}", began.elapsed());

    // An arena whose addresses are this program's for life: only the memory goes.
    let arena = Box::leak(Box::new(touched()?));
    let began = Instant::now();
    let freeing = free_in_background(vec![arena.contents()], Workers::default())?;
    println!("free_in_background kept its caller for {:.0?}", began.elapsed());
    while !freeing.is_finished() {
        println!("{} MiB are free", freeing.done().0 >> 20);
        // `freeing.cancel()` would leave the rest as it is.
        std::thread::sleep(Duration::from_millis(5));
    }
    let freed = freeing.wait();
    println!("{} MiB after {:.0?}", freed.freed.0 >> 20, began.elapsed());
    for failure in &freed.failures {
        println!("refused: {}", failure.error);
    }
    Ok(())
}

/// Memory in use.
fn touched() -> recoup::Result<Region> {
    let mut memory = Region::new(LENGTH)?;
    let all = memory.pages().length();
    memory.touch(Pages(0), all);
    Ok(memory)
}
