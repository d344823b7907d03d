//! Frees memory by several threads, and says how far it is.
//!
//!     cargo run --release -p recoup --example free_parallel

use std::ops::ControlFlow;
use std::time::Instant;

use recoup::teardown::{Options, Workers, free_parallel};
use recoup::{Bytes, Pages, Region, Result};

fn main() -> Result<()> {
    let mut memory = Region::new(Bytes(256 << 20))?;
    let all = memory.pages().length();
    memory.touch(Pages(0), all);

    let progress = |done: Bytes| {
        println!("{} MiB are free", done.0 >> 20);
        // `Break` would cancel the rest.
        ControlFlow::Continue(())
    };
    let options = Options { workers: Workers::default(), progress: Some(&progress) };
    let began = Instant::now();
    // A part of the region is `memory.release(first, count)`.
    let freed = free_parallel(vec![memory.contents()], &options);
    println!("{} workers took {:?}", freed.workers, began.elapsed());
    for failure in &freed.failures {
        println!("refused: {}", failure.error);
    }
    assert_eq!(memory.peek(0), 0, "it is still mapped");
    Ok(())
}
