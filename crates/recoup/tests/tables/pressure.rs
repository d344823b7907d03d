//! When memory runs short, empty page tables go though no limit is near.

use std::io::{Read, Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recoup::tables::{Limits, Regulator};
use recoup_sys::Bytes;
use recoup_sys::pressure::{MemoryPressure, nearest_file};
use recoup_testkit::require;
use recoup_testkit::workload::InOwnCgroup;

use crate::arena::{Ending, FENCES, Part, alone, features, fences, region, settled, tables};

const BLOCKS: u64 = 4096;
const MIB: u64 = 1 << 20;
/// What the cgroup may take beyond what it has, and how much is read over and over.
const ROOM: u64 = 16 * MIB;
const FILE: u64 = 4 * ROOM;
/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file whose pages are in nobody's memory; nothing where files live in memory only.
fn file_on_disk() -> Option<std::fs::File> {
    const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let mut file = tempfile::tempfile().ok()?;
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type;
    if IN_MEMORY.contains(&kind) {
        return None;
    }
    let mebibyte = vec![7; usize::try_from(MIB).ok()?];
    (0..FILE / MIB).try_for_each(|_| file.write_all(&mebibyte)).ok()?;
    file.sync_all().ok()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).ok()?;
    Some(file)
}

/// Reads what the cgroup has no room for: each page has to be fetched again.
fn make_pressure(mut file: &std::fs::File, ended: &AtomicBool) {
    let mut buffer = vec![0; 1 << 20];
    while !ended.load(Ordering::Relaxed) {
        if file.read(&mut buffer).unwrap() == 0 {
            file.rewind().unwrap();
        }
    }
}

/// Microseconds that tasks have waited for memory, by the file that the regulator watches.
fn waited() -> u64 {
    let text = std::fs::read_to_string(nearest_file().to_str().unwrap()).unwrap();
    let total = text.lines().next().and_then(|some| some.split("total=").nth(1));
    total.unwrap().trim().parse().unwrap()
}

/// Limits a cgroup to so many bytes; -1: not at all.
fn limit(own: &InOwnCgroup, bytes: &str) {
    let write = |file: &str, bytes: &str| std::fs::write(own.cgroup().path().join(file), bytes);
    let second = if bytes == "-1" { "max" } else { bytes };
    write("memory.limit_in_bytes", bytes).or_else(|_| write("memory.max", second)).unwrap();
}

#[test]
fn empty_tables_go_when_memory_runs_short() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    let own = InOwnCgroup::enter("pressure");
    require!(own.is_some(), "a memory cgroup that can be made");
    let own = own.unwrap();
    require!(
        MemoryPressure::open(&nearest_file()).is_ok(),
        "pressure stall information (CONFIG_PSI, psi=1)"
    );
    let file = file_on_disk();
    require!(file.is_some(), "temporary files on a disk (TMPDIR)");
    let file = file.unwrap();
    let region = region(BLOCKS);
    let part = Part::of(&region, 0, 1);
    let before = tables();
    for block in 0..part.pages / 512 {
        part.write(block * 512, 1);
        part.discard(block * 512);
    }
    let full = tables();
    assert!(full >= before + BLOCKS * 4096, "{before} {full}");
    // Far above what there is.
    let (soft, hard) = (Bytes(full * 8), Bytes(full * 16));
    let limits = Limits { soft, hard, max_pause: Limits::DEFAULT_MAX_PAUSE };
    let mut regulator = Regulator::new(settled(region.pages()), limits, &features()).unwrap();
    let so_far = waited();
    regulator.step().unwrap();
    // Others on this host may have waited meanwhile.
    assert!(tables() >= full || waited() > so_far, "freed without pressure");

    limit(&own, &(own.charge() + ROOM).to_string());
    let ended = AtomicBool::new(false);
    let went = std::thread::scope(|scope| {
        let _ending = Ending(&ended);
        scope.spawn(|| make_pressure(&file, &ended));
        let began = Instant::now();
        loop {
            if tables() <= before + MIB {
                break true;
            }
            if regulator.step().is_err() || began.elapsed() > PATIENCE {
                break false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    // There is no room for a failure's backtrace before.
    limit(&own, "-1");
    assert!(went, "{full} and still {} bytes of tables", tables());
}
