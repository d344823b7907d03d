//! How much more this process can take, as its cgroups and the host see it.
//!
//!     cargo run --release -p recoup --example headroom

use recoup::headroom::{Limit, headroom};
use recoup::{Bytes, Result};

fn main() -> Result<()> {
    let headroom = headroom(Bytes::ZERO)?;
    println!("room for {} MiB", headroom.bytes.0 >> 20);
    match headroom.limited_by {
        Limit::Host { available } => println!("the host has {} MiB", available.0 >> 20),
        Limit::Cgroup { path, limit, charge, cache } => println!(
            "{}: {} of {} MiB are charged, {} of them idle page cache",
            path.display(),
            charge.0 >> 20,
            limit.0 >> 20,
            cache.0 >> 20
        ),
    }
    Ok(())
}
