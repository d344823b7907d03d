//! Threads that write, discard, fork, change protections and read files into their memory while their
//! tables are swept, and know what must be there.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use recoup::discard::{TableReclaim, table_reclaim};
use recoup::tables::{Keeper, Limits, Mode, Outcome, Sweeper};
use recoup_sys::{Bytes, Features};
use recoup_testkit::numbers::Numbers;
use recoup_testkit::{kernel, require};

use crate::arena::{
    Ending, FENCES, PAGE, Part, alone, both_ways, features, fences, region, settled, tables,
};

const THREADS: usize = 4;
/// Pages that a thread keeps at most.
const KEPT: usize = 64;

struct Hammer<'a> {
    part: Part,
    dice: Numbers,
    held: HashMap<usize, u64>,
    file: &'a std::fs::File,
    by: TableReclaim,
    lost: u64,
    done: u64,
}

/// What the file holds.
const IN_FILE: u64 = 0x7265_636f_7570_2121;

impl Hammer<'_> {
    fn check(&mut self, page: usize) {
        let expected = self.held.get(&page).copied().unwrap_or(0);
        let found = self.part.read(page);
        if found != expected {
            println!("{found:#x} instead of {expected:#x} at page {page}");
        }
        self.lost += u64::from(found != expected);
    }

    fn drop_one(&mut self) {
        if let Some(&page) = self.held.keys().next() {
            self.check(page);
            self.held.remove(&page);
            self.part.discard(page);
            self.check(page);
            self.part.discard(page);
        }
    }

    fn page(&mut self) -> usize {
        self.dice.index(self.part.pages)
    }

    fn step(&mut self) {
        let page = self.page();
        self.done += 1;
        match self.dice.below(1000) {
            0 => {
                let (&page, &value) = self.held.iter().next().unwrap_or((&page, &0));
                let seen = self.part.child_sees(page, value);
                if !seen {
                    println!("a child saw something else at {page}: {value}");
                }
                self.lost += u64::from(!seen);
            }
            // What may be mapped anew stays plain.
            1..=20 if self.by == TableReclaim::Discard => {
                self.part.protect(page, libc::PROT_READ);
                self.check(page);
                self.part.protect(page, libc::PROT_READ | libc::PROT_WRITE);
            }
            21..=300 => self.check(page),
            301..=400 => {
                let filled = self.part.fill_from(page, self.file);
                if let Err(error) = &filled {
                    println!("read: {error}");
                }
                self.lost += u64::from(filled.is_err());
                self.held.insert(page, IN_FILE);
            }
            _ => {
                self.part.write(page, self.done);
                self.held.insert(page, self.done);
                self.check(page);
            }
        }
        if self.held.len() > KEPT {
            self.drop_one();
        }
    }

    /// Everything that it has written, looked at once more.
    fn finish(mut self) -> (u64, u64) {
        let pages: Vec<usize> = self.held.keys().copied().collect();
        pages.into_iter().for_each(|page| self.check(page));
        (self.lost, self.done)
    }
}

fn file() -> std::fs::File {
    let path = std::env::temp_dir().join(format!("recoup-tables-{}", std::process::id()));
    let mut file = std::fs::File::create_new(&path).unwrap();
    file.write_all(&IN_FILE.to_ne_bytes()).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// What comes next.
#[derive(PartialEq)]
enum Next {
    Enough,
    More,
}

/// Longer than anything here takes, even in an emulated guest beside others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hammers for a time, and on until there is enough of what is done `meanwhile`, over and over. Returns lost
/// writes and steps.
fn hammer(
    region: &recoup_sys::region::Region,
    time: Duration,
    by: TableReclaim,
    mut meanwhile: impl FnMut() -> Next,
) -> (u64, u64) {
    let (ended, lost, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let file = file();
    std::thread::scope(|scope| {
        let _ending = Ending(&ended);
        for index in 0..THREADS {
            let (file, ended, lost, done) = (&file, &ended, &lost, &done);
            let part = Part::of(region, index, THREADS);
            scope.spawn(move || {
                let dice = Numbers::new(0x9e37_79b9 + index as u64);
                let mut hammer =
                    Hammer { part, dice, held: HashMap::new(), file, by, lost: 0, done: 0 };
                while !ended.load(Ordering::Relaxed) {
                    hammer.step();
                }
                let (wrong, steps) = hammer.finish();
                lost.fetch_add(wrong, Ordering::Relaxed);
                done.fetch_add(steps, Ordering::Relaxed);
            });
        }
        let began = Instant::now();
        let mut next = meanwhile();
        while began.elapsed() < time || (next == Next::More && began.elapsed() < PATIENCE) {
            next = meanwhile();
        }
    });
    (lost.into_inner(), done.into_inner())
}

#[test]
fn no_write_is_lost_while_tables_are_swept() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    assert_eq!(PAGE, 4096);
    for features in both_ways() {
        let (region, by) = (region(8192), table_reclaim(&features));
        let pause = Duration::from_millis(10);
        let mut sweeper = Sweeper::new(settled(region.pages()), pause, &features).unwrap();
        let mut modes = [Mode::Looking, Mode::Fencing].into_iter().cycle();
        let (mut swept, mut most) = (Outcome::default(), 0);
        let (lost, steps) = hammer(&region, Duration::from_secs(4), by, || {
            swept = sweeper.sweep(modes.next().unwrap(), Bytes::ZERO).unwrap();
            most = most.max(tables());
            Next::Enough
        });
        println!("{by:?}: {steps} steps, most tables {most}, the last sweep {swept:?}");
        assert_eq!(lost, 0, "of {steps} steps, {by:?}");
        assert!(steps > 1000 && swept.sweeps > 0, "{steps}");
    }
}

/// How long the thread of this process with this name has had a processor, as the kernel says.
fn processor_time(name: &str) -> Option<Duration> {
    let thread = kernel::own_thread(name)?;
    let schedstat = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    Some(Duration::from_nanos(schedstat.split(' ').next()?.parse().unwrap()))
}

#[test]
fn no_write_is_lost_while_a_keeper_and_its_mate_free_behind_one_fence() {
    let _turn = alone();
    require!(fences(&features()), FENCES);
    for features in both_ways() {
        keep_and_hammer(&features);
    }
}

fn keep_and_hammer(features: &Features) {
    let (region, by) = (region(8192), table_reclaim(features));
    let max_pause = Limits::DEFAULT_MAX_PAUSE;
    // Every fence is worth sharing, and one follows the other.
    let limits = Limits { soft: Bytes(1 << 20), hard: Bytes(4 << 20), max_pause };
    let keeper = Keeper::start(settled(region.pages()), limits, features).unwrap();
    let (mut most, mut time) = (0, None);
    let (lost, steps) = hammer(&region, Duration::from_secs(4), by, || {
        most = most.max(tables());
        time = processor_time("recoup-tables/2");
        std::thread::sleep(Duration::from_millis(1));
        if keeper.outcome().freed > Bytes::ZERO { Next::Enough } else { Next::More }
    });
    let outcome = keeper.outcome();
    println!("{by:?}: {steps} steps, mate {time:?}, most tables {most}: {outcome:?}");
    assert_eq!(lost, 0, "of {steps} steps, {by:?}");
    assert!(steps > 1000 && outcome.freed > Bytes::ZERO, "{steps} {outcome:?}");
    // To start and to wait takes it less than a tenth of that. One processor is none to spare, and there is
    // nothing to share where memory is mapped anew.
    let alone =
        std::thread::available_parallelism().unwrap().get() == 1 || by == TableReclaim::Remap;
    let worked = time.is_some_and(|time| time > Duration::from_millis(5));
    assert!(worked || alone, "the mate ran for {time:?}");
    drop(keeper);
    // The kernel shows a thread for a moment after who waits for it goes on.
    let began = Instant::now();
    while kernel::own_thread("recoup-tables/2").is_some() {
        assert!(began.elapsed() < PATIENCE, "its thread is still there");
    }
}
