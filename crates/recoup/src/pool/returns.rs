//! Free memory goes back to the source, by a thread of its own or in somebody's turn.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use recoup_core::hints::{BATCH, Due, Settings, Stats, Worker};
use recoup_core::units::PAGE_SHIFT;
use recoup_sys::Bytes;
use recoup_sys::home::Home;

use crate::inside::Inside;

use super::bell::Call;
use super::source::Arrival;
use super::transport::Transport;
use super::zone::{Zone, return_order};
use super::{Pool, Shared};

/// When freed memory goes back, and how much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnSettings {
    /// How many freed extents have to gather before they are looked at. Should be more than a program
    /// takes and frees in one go, or it waits for its memory to come back as soon as it went.
    pub threshold: usize,
    /// How long they wait at most if they are fewer. Chunks that an owner keeps at hand go back after
    /// they were not used for so long.
    pub deadline: Duration,
    /// How many extents one request names, from 1 to 16. Who wants one of them waits for one request.
    pub per_request: usize,
}

impl Default for ReturnSettings {
    /// 512 extents (a gigabyte in chunks) or two seconds, one by one.
    fn default() -> Self {
        Self { threshold: 512, deadline: Duration::from_secs(2), per_request: 1 }
    }
}

/// What has gone back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// Memory that was given back in extents.
    pub bytes: Bytes,
    /// Gigabytes behind which nothing was left, so that they went back to the source.
    pub gigabytes: u64,
    /// Extents that the kernel did not take; they stay in the pool.
    pub failed: u64,
}

impl Pool {
    /// Gives all free memory back now, and gigabytes that are empty then.
    pub fn trim(&self) -> Returned {
        self.0.give_back_all()
    }

    /// Starts a thread that gives freed memory back, until the result is dropped.
    ///
    /// # Errors
    /// No thread can be made; `AlreadyExists` if the pool has one.
    pub fn return_in_background(&self, settings: ReturnSettings) -> io::Result<Background> {
        self.start_returning(settings, Serves::Owners)
    }

    pub(super) fn start_returning(
        &self,
        settings: ReturnSettings,
        serves: Serves,
    ) -> io::Result<Background> {
        let home = Home::new().map_err(io::Error::other)?;
        self.0.bell.listen(settings.threshold)?;
        let shared = Arc::clone(&self.0);
        let work = move || {
            let _inside = (serves == Serves::Allocator).then(Inside::enter);
            Thread::new(&shared, settings).run()
        };
        let thread = std::thread::Builder::new().name("recoup-return".to_owned()).spawn(work);
        let thread = thread.inspect_err(|_| self.0.bell.leave())?;
        Ok(Background { pool: Arc::clone(&self.0), home, thread: Some(thread) })
    }
}

/// Whose pool a thread gives memory back of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// Anybody's. The thread frees blocks of the program's allocator like any other.
    Owners,
    /// The program's allocator's, whose locks the thread holds: what it needs itself comes from elsewhere.
    Allocator,
}

impl Shared {
    pub(super) fn give_back_all(&self) -> Returned {
        let mut all = Returned::default();
        if !self.is_here() {
            return all;
        }
        self.give_up_spares();
        self.look_until_alone(|| {
            self.zones.all().iter().map(|(_, zone)| give_back_zone(zone, &mut all)).sum()
        });
        all
    }
}

/// Gives all free memory of a zone back. Says in how many passages.
fn give_back_zone(zone: &Zone, all: &mut Returned) -> u64 {
    // One by one: who wants a chunk of those waits for that one only.
    let at_once = ReturnSettings { threshold: 1, deadline: Duration::ZERO, per_request: 1 };
    let mut turn = Turn::new(zone, at_once);
    // As many rounds as there are hints: others may free as fast as this gives back.
    let rounds = (0..zone.most_hints()).take_while(|_| turn.take(zone, 0) == Due::Now).count();
    all.add(turn.returned());
    let gigabytes = zone.retire();
    all.gigabytes += gigabytes;
    rounds as u64 + gigabytes
}

/// A thread that gives a pool's freed memory back, until it is dropped.
#[derive(Debug)]
pub struct Background {
    pool: Arc<Shared>,
    /// Whose thread it is. A forked child may have the pool, but never the thread.
    home: Home,
    thread: Option<JoinHandle<Returned>>,
}

impl Background {
    /// Ends it, and says what it has given back.
    #[must_use]
    pub fn stop(mut self) -> Returned {
        self.end()
    }

    /// Ends it once.
    fn end(&mut self) -> Returned {
        let Some(thread) = self.thread.take() else { return Returned::default() };
        if !self.home.is_here() {
            // The thread is the parent's: here, nobody would end a wait for it.
            std::mem::forget(thread);
            if self.pool.is_here() {
                // Whoever has inherited the pool may start one here.
                self.pool.bell.leave();
            }
            return Returned::default();
        }
        self.pool.bell.silence();
        // A thread that has panicked needs no more than to be gone.
        let done = thread.join().ok();
        self.pool.bell.leave();
        done.unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

impl Returned {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.gigabytes += other.gigabytes;
        self.failed += other.failed;
    }
}

/// The engine of hints at work on a zone.
#[derive(Debug)]
struct Turn {
    worker: Worker,
    order: u8,
}

impl Turn {
    fn new(zone: &Zone, settings: ReturnSettings) -> Self {
        let order = return_order(zone.kind());
        let deadline_ns = u64::try_from(settings.deadline.as_nanos()).unwrap_or(u64::MAX);
        // A request that fails in part says nothing of its parts. Where touches have to find memory, each
        // part is a request.
        let per_request = match zone.kind().arrival {
            Arrival::OnTouch => settings.per_request.clamp(1, BATCH),
            Arrival::Fetched => 1,
        };
        let worker = Worker::new(Settings {
            order,
            per_request,
            threshold: settings.threshold,
            deadline_ns,
        });
        Self { worker, order }
    }

    /// One batch, if it is time for one.
    fn take(&mut self, zone: &Zone, now_ns: u64) -> Due {
        let due = self.worker.due(zone.hints.pending(), now_ns);
        if due == Due::Now {
            let _passage = zone.transit.set_out();
            // What failed is counted, and stays in the pool.
            let _ = self.worker.round(&zone.hints, &mut Transport(zone), &mut Transport(zone));
        }
        due
    }

    /// Batches until nothing is due, or it is others' turn.
    fn take_several(&mut self, zone: &Zone, now_ns: u64) -> Due {
        let mut due = Due::Now;
        for _ in 0..MOST_ROUNDS {
            due = self.take(zone, now_ns);
            if due != Due::Now {
                break;
            }
        }
        due
    }

    fn returned(&self) -> Returned {
        let Stats { returned, failed, .. } = self.worker.stats();
        let bytes = Bytes(returned << (u32::from(self.order) + PAGE_SHIFT));
        Returned { bytes, gigabytes: 0, failed }
    }
}

/// After so many batches of one zone the others get their turn, and whoever wants the thread to stop
/// is heard.
const MOST_ROUNDS: usize = 64;

/// The thread's own.
#[derive(Debug)]
struct Thread<'a> {
    pool: &'a Shared,
    settings: ReturnSettings,
    turns: Vec<(Weak<Zone>, Turn)>,
    start: Instant,
    done: Returned,
}

impl<'a> Thread<'a> {
    fn new(pool: &'a Shared, settings: ReturnSettings) -> Self {
        Self { pool, settings, turns: Vec::new(), start: Instant::now(), done: Returned::default() }
    }

    fn run(mut self) -> Returned {
        let mut next_look = self.settings.deadline;
        loop {
            let next_hint = self.follow_hints();
            if self.start.elapsed() >= next_look {
                self.pool.give_up_idle_spares();
                next_look = self.start.elapsed() + self.settings.deadline;
            }
            let until = (!self.can_sleep_long())
                .then(|| next_hint.map_or(next_look, |hint| hint.min(next_look)));
            let wait = until.map(|until| until.saturating_sub(self.start.elapsed()));
            if self.pool.bell.wait(wait) == Call::Stop {
                return self.all_done();
            }
        }
    }

    fn can_sleep_long(&self) -> bool {
        let has_hints = || self.pool.zones.all().iter().any(|(_, zone)| zone.hints.pending() > 0);
        self.pool.bell.can_sleep_long(|| self.pool.has_spares(), has_hints)
    }

    fn all_done(mut self) -> Returned {
        self.turns.drain(..).for_each(|(_, turn)| self.done.add(turn.returned()));
        self.done
    }

    /// Gives back what is due. Says when the next is.
    fn follow_hints(&mut self) -> Option<Duration> {
        self.find_zones();
        let mut next: Option<u64> = None;
        for (zone, turn) in &mut self.turns {
            let Some(zone) = zone.upgrade() else { continue };
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let before = turn.returned();
            let due = turn.take_several(&zone, now);
            if turn.returned() != before {
                self.done.gigabytes += zone.retire();
            }
            let at = match due {
                Due::Idle => continue,
                Due::At(at) => at,
                Due::Now => now,
            };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next.map(Duration::from_nanos)
    }

    /// Takes note of zones that are new, and of those that have ended.
    fn find_zones(&mut self) {
        self.turns.retain(|(zone, turn)| {
            let lives = zone.strong_count() > 0;
            if !lives {
                self.done.add(turn.returned());
            }
            lives
        });
        for (_, zone) in self.pool.zones.all() {
            let known = |(known, _): &(Weak<Zone>, Turn)| {
                known.upgrade().is_some_and(|known| Arc::ptr_eq(&known, &zone))
            };
            if !self.turns.iter().any(known) {
                let turn = Turn::new(&zone, self.settings);
                self.turns.push((Arc::downgrade(&zone), turn));
            }
        }
    }
}
