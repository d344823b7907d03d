//! What keeping page tables within a hard limit costs those who keep adding some, and how long they wait.

#![expect(unsafe_code, reason = "threads share one mapping, each its own pages of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recoup::discard::HugePages;
use recoup::tables::{Keeper, Limits, Mode, Outcome, Settled, Sweeper};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Features, Pages};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{cpu_time, median};
use recoup_testkit::{Figure, Size, kernel};

const THREADS: usize = 4;
const HARD: u64 = 16 << 20;
const PAGE: usize = 4096;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    let features = Features::probe().expect("the features");
    let region = sparse(Bytes(size.pick(64 << 30, 8 << 30)));
    // SAFETY: the region outlives all sweeps, and nothing is mapped over it.
    let settled = || unsafe { Settled::new(region.pages()) };
    if let Err(refused) = Sweeper::new(settled(), Limits::DEFAULT_MAX_PAUSE, &features) {
        println!("tables: not measured: {refused}");
        return;
    }
    let time = size.pick(Duration::from_secs(3), Duration::from_millis(300));
    for (what, pages) in [("1 page", 1), ("32 pages", 32), ("512 pages", 512)] {
        let rounds = (0..size.pick(3, 1)).map(|_| {
            let bare = Load::run(&region, time, pages, Discards::TheBlock);
            let without = Load::run(&region, time, pages, Discards::ItsPages);
            let keeper = Keeper::start(settled(), limits(), &features).expect("a keeper");
            while own_tables() > HARD {
                std::thread::sleep(Duration::from_millis(10));
            }
            let with = Load::run(&region, time, pages, Discards::ItsPages);
            // Watching costs something itself: a run of its own.
            let asleep = Load::watched(&region, time, pages);
            Round { bare, without, with, asleep, outcome: keeper.outcome() }
        });
        report(what, &rounds.collect::<Vec<_>>());
    }
    drop(region);
    let discarding = idle(&features, size);
    Figure { what: "sweeping an idle program", value: discarding, target: 2.0, unit: "ms a GiB" }
        .print("512 empty tables a GiB, processor time");
    let anew = idle(&kernel::with_table_reclaim_hidden(&features), size);
    note("the same by mapping anew", &format!("{anew:.3} ms a GiB"));
}

fn limits() -> Limits {
    let max_pause = Limits::DEFAULT_MAX_PAUSE;
    Limits { soft: Bytes(HARD / 2), hard: Bytes(HARD), max_pause }
}

fn sparse(length: Bytes) -> Region {
    let mut region = Region::new(length).expect("a mapping");
    region.advise(Pages(0), length.whole_pages(), OwnAdvice::BasePages).ok();
    region
}

fn own_tables() -> u64 {
    kernel::status_bytes(kernel::own_pid(), "VmPTE")
}

/// What a thread gives back when it has done with some pages.
#[derive(Clone, Copy)]
enum Discards {
    ItsPages,
    /// All of the block, with which the kernel frees the table: the least that few tables cost.
    TheBlock,
}

/// The same work with each table freed by who used it, without a limit, and with one.
struct Round {
    bare: Load,
    without: Load,
    with: Load,
    /// With a limit as well: how long accesses slept.
    asleep: Load,
    outcome: Outcome,
}

/// What the threads did, and how long each access took.
#[derive(Default)]
struct Load {
    operations: u64,
    lost: u64,
    most_tables: u64,
    /// Accesses by time: up to `2^i` us.
    waits: [u64; 24],
    longest: Duration,
    over_budget: u64,
}

impl Load {
    fn run(region: &Region, time: Duration, pages: usize, discards: Discards) -> Self {
        Self::by(region, time, |part, ended| part.hammer(pages, discards, ended, Instant::now))
    }

    /// The same, timed by a clock that stands still while a thread waits for a processor: at a fence it
    /// sleeps.
    fn watched(region: &Region, time: Duration, pages: usize) -> Self {
        Self::by(region, time, |part, ended| {
            let delay = RunDelay::open();
            part.hammer(pages, Discards::ItsPages, ended, || Instant::now() - delay.so_far())
        })
    }

    fn by(
        region: &Region,
        time: Duration,
        hammer: impl Fn(Part, &AtomicBool) -> Self + Copy + Send + Sync,
    ) -> Self {
        let (ended, start) = (AtomicBool::new(false), Barrier::new(THREADS + 1));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|index| {
                    let part = Part::of(region, index);
                    let (ended, start) = (&ended, &start);
                    scope.spawn(move || {
                        start.wait();
                        hammer(part, ended)
                    })
                })
                .collect();
            start.wait();
            let (began, mut most) = (Instant::now(), 0);
            while began.elapsed() < time {
                most = most.max(own_tables());
                std::thread::sleep(Duration::from_millis(1));
            }
            ended.store(true, Ordering::Relaxed);
            let mut sum = Self { most_tables: most, ..Self::default() };
            for thread in threads {
                sum.add(&thread.join().expect("a hammering thread"));
            }
            sum
        })
    }

    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.lost += other.lost;
        self.over_budget += other.over_budget;
        self.longest = self.longest.max(other.longest);
        self.waits.iter_mut().zip(other.waits).for_each(|(sum, count)| *sum += count);
    }

    fn took(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let place = (u64::BITS - micros.leading_zeros()) as usize;
        self.waits[place.min(23)] += 1;
        self.longest = self.longest.max(time);
        self.over_budget += u64::from(time > Limits::DEFAULT_MAX_PAUSE);
    }

    /// Accesses that took longer than any does without a fence: 64 us.
    fn waited(&self) -> u64 {
        self.waits[7..].iter().sum()
    }
}

/// How long the calling thread has waited for a processor (`schedstat` of proc_pid(5), since Linux 2.6).
struct RunDelay(File);

impl RunDelay {
    fn open() -> Self {
        Self(File::open("/proc/thread-self/schedstat").expect("CONFIG_SCHED_INFO"))
    }

    fn so_far(&self) -> Duration {
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0).expect("schedstat");
        let text = std::str::from_utf8(&text[..length]).expect("schedstat");
        let nanos = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        Duration::from_nanos(nanos.expect("schedstat"))
    }
}

/// One thread's own pages.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    blocks: usize,
    index: u64,
}

impl Part {
    fn of(region: &Region, index: usize) -> Self {
        let address = usize::try_from(region.pages().start.address()).expect("an address");
        let blocks = usize::try_from(region.pages().length().0).expect("a length") / 512 / THREADS;
        Self { start: address + index * blocks * 512 * PAGE, blocks, index: index as u64 }
    }

    /// Over and over: writes some pages of a random block, looks whether they hold it, discards them.
    fn hammer(
        self,
        pages: usize,
        discards: Discards,
        ended: &AtomicBool,
        clock: impl Fn() -> Instant,
    ) -> Load {
        let (mut load, mut state) = (Load::default(), 0x9e37_79b9_7f4a_7c15 + self.index);
        while !ended.load(Ordering::Relaxed) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = usize::try_from(state >> 33).unwrap_or(0);
            let first = random % self.blocks * 512 + (random >> 8) % (513 - pages);
            for page in first..first + pages {
                let began = clock();
                self.at(page, |place| {
                    // SAFETY: `at` gives a place of this thread's own.
                    unsafe { place.write_volatile(state) }
                });
                load.took(clock().saturating_duration_since(began));
            }
            for page in first..first + pages {
                self.at(page, |place| {
                    // SAFETY: as above.
                    let right = unsafe { place.read_volatile() } == state;
                    load.lost += u64::from(!right);
                });
            }
            let (from, count) = match discards {
                Discards::ItsPages => (first, pages),
                Discards::TheBlock => (first / 512 * 512, 512),
            };
            self.at(from, |place| {
                // SAFETY: these pages are this thread's own, and it has done with them.
                let done =
                    unsafe { libc::madvise(place.cast(), count * PAGE, libc::MADV_DONTNEED) };
                assert_eq!(done, 0, "madvise");
            });
            load.operations += pages as u64;
        }
        load
    }

    fn at(self, page: usize, with: impl FnOnce(*mut u64)) {
        assert!(page < self.blocks * 512, "a page of this part");
        with(std::ptr::with_exposed_provenance_mut(self.start + page * PAGE));
    }
}

fn report(what: &str, rounds: &[Round]) {
    let of = |number: &dyn Fn(&Round) -> f64| median(rounds.iter().map(number).collect());
    let most = rounds.iter().map(|round| round.with.most_tables).max().unwrap_or(0);
    let lost: u64 =
        rounds.iter().flat_map(|it| [&it.bare, &it.without, &it.with]).map(|load| load.lost).sum();
    let text = format!("touching and discarding {what} at a time, 4 threads");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let free = rounds.iter().map(|round| round.without.most_tables).max().unwrap_or(0);
    figure(
        &text,
        "most page tables",
        mib(most),
        mib(HARD),
        "MiB",
        &format!("{:.1} without", mib(free)),
    );
    figure(&text, "writes lost", lost as f64, 0.0, "writes", "checked at each");
    let by_without = |round: &Round, load: &Load| {
        round.without.operations as f64 / load.operations.max(1) as f64
    };
    let speed = of(&|round| by_without(round, &round.with));
    let bare = of(&|round| by_without(round, &round.bare));
    let rate = of(&|round| round.without.operations as f64);
    figure(
        &text,
        "time by that without a limit",
        speed,
        1.25,
        "x",
        &format!("{rate} accesses without"),
    );
    note(
        &format!("{text}: the same if each table is freed by who used it"),
        &format!("{bare:.3} x"),
    );
    report_waits(&text, rounds);
}

/// How long the fences were up, how long accesses slept, of which fences are the one reason, and how long
/// they took with what they waited for a processor, at times behind a thread that a fence had just let go.
fn report_waits(text: &str, rounds: &[Round]) {
    let pauses = || rounds.iter().map(|round| round.outcome.pauses);
    let fences: u64 = pauses().map(|pauses| pauses.count()).sum();
    let over: u64 = pauses().map(|pauses| pauses.over_budget).sum();
    let longest = pauses().map(|pauses| pauses.longest).max();
    let made = format!("{over} of {fences} fences, longest {:?}", longest.unwrap_or_default());
    let share = over as f64 / fences.max(1) as f64 * 100.0;
    figure(text, "fences up for over 10 ms", share, 0.1, "%", &made);
    let (mut asleep, mut with, mut without) = (Load::default(), Load::default(), Load::default());
    for round in rounds {
        asleep.add(&round.asleep);
        without.add(&round.without);
        with.add(&round.with);
    }
    let share = |load: &Load| load.over_budget as f64 / load.waited().max(1) as f64 * 100.0;
    let shown = |load: &Load| {
        let (over, waited) = (load.over_budget, load.waited());
        format!("{over} of {waited} over 64 us, longest {:?}", load.longest)
    };
    figure(text, "accesses that slept for over 10 ms", share(&asleep), 0.1, "%", &shown(&asleep));
    note(
        &format!("{text}: accesses that took over 10 ms, with waiting for a processor"),
        &format!("{:.3} %: {}; without a limit {}", share(&with), shown(&with), shown(&without)),
    );
}

fn figure(text: &str, what: &str, value: f64, target: f64, unit: &str, made_from: &str) {
    Figure { what: &format!("{text}: {what}"), value, target, unit }.print(made_from);
}

/// A program that does nothing, 512 empty tables a GiB: milliseconds a GiB.
fn idle(features: &Features, size: Size) -> f64 {
    let gib = size.pick(16, 2);
    let mut region = sparse(Bytes(gib << 30));
    let mut times = Vec::new();
    for _ in 0..size.pick(7, 1) {
        for block in 0..gib << 9 {
            region.touch(Pages(block << 9), Pages(1));
            region.advise(Pages(block << 9), Pages(1), OwnAdvice::Discard).expect("a discard");
        }
        // SAFETY: the region outlives the sweep, nothing is mapped over it, and it stays as it is.
        let settled = unsafe { Settled::plain(region.pages(), HugePages::Unwanted) };
        let mut sweeper =
            Sweeper::new(settled, Limits::DEFAULT_MAX_PAUSE, features).expect("a sweeper");
        let before = own_tables();
        let time = cpu_time(|| _ = sweeper.sweep(Mode::Looking, Bytes::ZERO).expect("a sweep"));
        let freed = before.saturating_sub(own_tables());
        assert!(freed >= (gib << 9) * BLOCK.0 / 512 / 10 * 9, "{freed} bytes freed");
        times.push(time.as_secs_f64() * 1e3 / gib as f64);
    }
    median(times)
}
