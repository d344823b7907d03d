//! The workload that `recoup demo` looks at: a cache that is filled, thinned out, and keeps
//! verifying what is left, beside memory that was freed in every other way that gets stuck.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Context;
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{PAGE_BYTES, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Pages};

use crate::commands::Done;

/// How the child's verdict begins if nothing is wrong.
pub(crate) const ALL_INTACT: &str = "all intact";

/// The cache's memory. Values are pages; most are deleted, in runs, as an eviction does.
const CACHE: Bytes = Bytes(512 << 20);
/// Of so many consecutive values ...
const RUN: u64 = 128;
/// ... the first so many stay.
const KEPT: u64 = 8;
/// A buffer that is filled, then freed with `MADV_FREE`.
const BUFFER: Bytes = Bytes(128 << 20);
/// A sparse index that is touched once in every 2 MiB, then discarded again.
const INDEX: Bytes = Bytes(16 << 30);
/// A sparse table that is only read: the zero page all over.
const SPARSE: Bytes = Bytes(2 << 30);

/// Follows the commands on standard input until it ends.
pub(crate) fn run() -> anyhow::Result<Done> {
    let mut memory: Option<Memory> = None;
    for command in std::io::stdin().lock().lines() {
        let answer = match command?.as_str() {
            "start" => {
                memory = Some(Memory::make().context("the workload cannot get its memory")?);
                "ready".to_owned()
            }
            "verify" => memory.as_ref().map_or_else(String::new, Memory::verdict),
            _ => continue,
        };
        writeln!(std::io::stdout(), "{answer}")?;
    }
    if let Some(memory) = memory {
        memory.stop.store(true, Ordering::Relaxed);
    }
    Ok(Done::All)
}

struct Memory {
    checks: Arc<Checks>,
    stop: Arc<AtomicBool>,
    _freed: [Region; 3],
}

/// What the verifying thread counts.
#[derive(Default)]
struct Checks {
    rounds: AtomicU64,
    values: AtomicU64,
    wrong: AtomicU64,
}

impl Memory {
    fn make() -> anyhow::Result<Self> {
        let mut cache = Region::new(CACHE)?;
        cache.advise(Pages(0), CACHE.whole_pages(), OwnAdvice::HugePages)?;
        fill(&mut cache);
        thin_out(&mut cache)?;
        let freed = [lazily_freed()?, empty_tables()?, zero_tables()?];
        let (checks, stop) = (Arc::new(Checks::default()), Arc::new(AtomicBool::new(false)));
        let (counts, stopped) = (Arc::clone(&checks), Arc::clone(&stop));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                check_round(&cache, &counts);
            }
        });
        while checks.rounds.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        Ok(Self { checks, stop, _freed: freed })
    }

    /// Waits for one more whole round and says what all rounds found.
    fn verdict(&self) -> String {
        let seen = self.checks.rounds.load(Ordering::Acquire);
        while self.checks.rounds.load(Ordering::Acquire) < seen + 2 {
            thread::yield_now();
        }
        let rounds = self.checks.rounds.load(Ordering::Acquire);
        let values = self.checks.values.load(Ordering::Relaxed);
        match self.checks.wrong.load(Ordering::Relaxed) {
            0 => format!("{ALL_INTACT} ({} values verified {rounds} times)", values / rounds),
            wrong => format!("{wrong} of {values} verified values were wrong"),
        }
    }
}

fn byte_offset(page: u64) -> usize {
    usize::try_from(Pages(page).bytes().0).unwrap_or(usize::MAX)
}

/// The value of a page: distinct for each page, and costly to get right by chance.
fn value(page: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    let mut state = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn fill(cache: &mut Region) {
    for page in 0..CACHE.whole_pages().0 {
        cache.write(byte_offset(page), &value(page));
    }
}

fn thin_out(cache: &mut Region) -> anyhow::Result<()> {
    for run in 0..CACHE.whole_pages().0 / RUN {
        cache.advise(Pages(run * RUN + KEPT), Pages(RUN - KEPT), OwnAdvice::Discard)?;
    }
    Ok(())
}

fn check_round(cache: &Region, checks: &Checks) {
    let mut found = [0; PAGE_BYTES];
    let kept = (0..CACHE.whole_pages().0).filter(|page| page % RUN < KEPT);
    for page in kept {
        cache.read(byte_offset(page), &mut found);
        checks.values.fetch_add(1, Ordering::Relaxed);
        if found != value(page) {
            checks.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }
    // Release: whoever sees the round sees its counts.
    checks.rounds.fetch_add(1, Ordering::Release);
}

fn lazily_freed() -> anyhow::Result<Region> {
    let mut buffer = Region::new(BUFFER)?;
    buffer.touch(Pages(0), BUFFER.whole_pages());
    buffer.advise(Pages(0), BUFFER.whole_pages(), OwnAdvice::FreeLazily)?;
    Ok(buffer)
}

/// A sparse region of base pages, and the first page of each of its 2 MiB blocks.
fn sparse(length: Bytes) -> anyhow::Result<(Region, impl Iterator<Item = u64>)> {
    let mut region = Region::new(length)?;
    let pages = length.whole_pages();
    region.advise(Pages(0), pages, OwnAdvice::BasePages)?;
    Ok((region, (0..pages.0).step_by(PAGES_PER_BLOCK)))
}

fn empty_tables() -> anyhow::Result<Region> {
    let (mut index, pages) = sparse(INDEX)?;
    for page in pages {
        index.touch(Pages(page), Pages(1));
        index.advise(Pages(page), Pages(1), OwnAdvice::Discard)?;
    }
    Ok(index)
}

fn zero_tables() -> anyhow::Result<Region> {
    let (region, pages) = sparse(SPARSE)?;
    pages.for_each(|page| _ = region.peek(byte_offset(page)));
    Ok(region)
}
