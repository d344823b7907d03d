//! A pool's life: extents of an owner, memory that moves, and what goes back by itself.
//!
//!     cargo run --release -p recoup --example pool

use std::error::Error;
use std::time::{Duration, Instant};

use recoup::pool::{Bytes, Chunks, OwnerOptions, Pool, ReturnSettings, Thp};

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(Thp::private(), Bytes(4 << 30));
    let owner = pool.owner(OwnerOptions::default().quota(Bytes(3 << 30)))?;
    println!("{:34} attached     held    spare     warm", "MiB");
    show(&pool, "a pool takes nothing");

    let mut extent = owner.chunks(Chunks(32))?;
    extent.fill(1);
    show(&pool, "an extent of 64 MiB");

    // Three gigabytes of which every eighth chunk stays, which pins down all three.
    let all: Result<Vec<_>, _> = (0..1400).map(|_| owner.movable(Chunks(1))).collect();
    let mut number = 0;
    let kept: Vec<_> = all?
        .into_iter()
        .filter(|_| {
            number += 1;
            number % 8 == 0
        })
        .collect();
    kept.iter().for_each(|movable| movable.write().fill(2));
    show(&pool, "an eighth of 2.7 GiB, here and there");

    let done = pool.compact();
    show(&pool, "compacted");
    println!("    {} gigabytes back, {} MiB moved", done.returned, done.moved.0 >> 20);

    let settings =
        ReturnSettings { deadline: Duration::from_millis(10), ..ReturnSettings::default() };
    let background = pool.return_in_background(settings)?;
    drop((extent, kept));
    show(&pool, "all freed");
    let began = Instant::now();
    while pool.usage().attached > Bytes(0) && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    show(&pool, &format!("{:.0?} later", began.elapsed()));
    println!("    {} MiB given back in the background", background.stop().bytes.0 >> 20);
    Ok(())
}

fn show(pool: &Pool, when: &str) {
    let usage = pool.usage();
    let [attached, held, spare, warm] =
        [usage.attached, usage.held, usage.spare, usage.warm].map(|bytes| bytes.0 >> 20);
    println!("{when:34} {attached:8} {held:8} {spare:8} {warm:8}");
}
