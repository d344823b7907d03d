//! Page tables of a sparse region, before and after a keeper's work.
//!
//!     cargo run --release -p recoup --example tables
//!
//! `-- --max-pause MS` says how long a thread may wait at a fence, about: 10 by default.
//!
//! Needs Linux 6.7, and a userfaultfd that covers faults of the kernel: as root,
//! or with `sysctl vm.unprivileged_userfaultfd=1`. Without, it says what is missing and ends.

#![expect(unsafe_code, reason = "what is settled is promised here")]

use std::error::Error;
use std::time::{Duration, Instant};

use recoup::discard::HugePages;
use recoup::tables::{Keeper, Limits, OwnStatus, Pauses, Settled};
use recoup::units::BLOCK;
use recoup::{Bytes, Features, OwnAdvice, Pages, Region};

const LENGTH: Bytes = Bytes(8 << 30);

fn main() -> Result<(), Box<dyn Error>> {
    let max_pause = max_pause()?;
    let features = Features::probe()?;
    // Declared before the keeper, so unmapped after its end.
    let mut region = Region::new(LENGTH)?;
    let limits = Limits { soft: Bytes(4 << 20), hard: Bytes(64 << 20), max_pause };
    region.advise(Pages(0), LENGTH.whole_pages(), OwnAdvice::BasePages)?;
    // SAFETY: the region is this program's own, nothing is mapped over it, it stays as it is now, and it
    // outlives the keeper.
    let settled = unsafe { Settled::plain(region.pages(), HugePages::Unwanted) };
    let status = OwnStatus::open()?;
    println!("page tables at first: {}", kib(status.page_tables()?));
    for block in 0..LENGTH.0 / BLOCK.0 {
        let page = Pages(block * BLOCK.whole_pages().0);
        region.touch(page, Pages(1));
        region.advise(page, Pages(1), OwnAdvice::Discard)?;
    }
    println!("a page of each 2 MiB touched and discarded: {}", kib(status.page_tables()?));
    let keeper = match Keeper::start(settled, limits, &features) {
        Ok(keeper) => keeper,
        Err(refused) => {
            println!("{refused}");
            return Ok(());
        }
    };
    let began = Instant::now();
    while status.page_tables()? > limits.soft && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("after {:.0?} of a keeper: {}", began.elapsed(), kib(status.page_tables()?));
    // A step is told when it is over.
    std::thread::sleep(Duration::from_millis(200));
    show(&keeper.outcome().pauses, max_pause);
    Ok(())
}

fn max_pause() -> Result<Duration, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(Limits::DEFAULT_MAX_PAUSE),
        (Some("--max-pause"), Some(milliseconds), None) => {
            Ok(Duration::from_millis(milliseconds.parse()?))
        }
        _ => Err("usage: tables [--max-pause MS]".into()),
    }
}

fn kib(bytes: Bytes) -> String {
    format!("{} KiB", bytes.0 >> 10)
}

fn show(pauses: &Pauses, max_pause: Duration) {
    let (count, over) = (pauses.count(), pauses.over_budget);
    println!("longest pause {:?}, {over} of {count} over {max_pause:?}", pauses.longest);
    println!("{count} fences, up for {:?} in all:", pauses.total);
    for (place, count) in pauses.histogram.iter().enumerate().filter(|(_, count)| **count > 0) {
        match place + 1 {
            Pauses::PLACES => println!("  longer: {count}"),
            _ => println!("  below {:>6} us: {count}", 1_u64 << place),
        }
    }
}
