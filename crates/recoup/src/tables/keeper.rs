//! Limits on page tables, kept by looking often enough and sweeping in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use recoup_sys::userfault::Settled;
use recoup_sys::{Bytes, Errno, Features, urgency};

use super::rest::Rest;
use super::{Mode, Outcome, Refused, Sweeper};

/// Limits on the bytes of page tables (`VmPTE`) of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Over this, tables are freed in the background.
    pub soft: Bytes,
    /// Before this is reached, those who add tables are held up while others are freed. What is
    /// needed (tables that hold something, PMD tables) can still exceed it; then sweeps get rarer.
    ///
    /// Hard only where the thread that steps gets real-time priority (`CAP_SYS_NICE`, or `RLIMIT_RTPRIO`):
    /// without, it waits for a processor like any other, and on a busy machine tables overshoot meanwhile.
    /// Nor is it hard where tables go by mapping anew (before Linux 6.14): that waits for the mmap lock.
    pub hard: Bytes,
    /// How long a thread may wait at a fence, about.
    pub max_pause: Duration,
}

impl Limits {
    /// 10 ms.
    pub const DEFAULT_MAX_PAUSE: Duration = Duration::from_millis(10);
}

/// What one step found, and when the next is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub outcome: Outcome,
    /// The next step is due after this.
    pub wait: Duration,
}

/// Keeps [`Limits`], one [`Regulator::step`] at a time: for one who has a thread for it.
///
/// A step allocates nothing, takes no lock and doesn't panic. The thread that steps does well to call
/// [`short_bursts`](super::short_bursts) first, as a [`Keeper`]'s and the companion do: it then asks
/// for the lowest real-time priority (`SCHED_RR` 1), if it may.
#[derive(Debug)]
pub struct Regulator {
    sweeper: Sweeper,
    limits: Limits,
    growth: Growth,
    /// Sweeps that gain little are not repeated at once, however many tables there are.
    fencing: Rest,
    looking: Rest,
}

/// How fast tables are added, at most, by what was seen of late.
#[derive(Clone, Copy, Debug)]
struct Growth {
    since: Instant,
    from: Bytes,
    /// Bytes a second.
    rate: f64,
    /// How late steps come, of late.
    lateness: Duration,
    due: Instant,
}

/// What a few processors that do nothing else add in a second: assumed until it is known.
const FASTEST: f64 = 3e9;
/// This part of the hard limit is kept free for what is added while the fence is on its way.
const HEADROOM: u64 = 2;
const SHORTEST_WAIT: Duration = Duration::from_micros(100);
const LONGEST_LATENESS: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Steps during a rest after sweeps in vain: what they cost is to be a few percent.
const SHORTEST_WAIT_RESTING: Duration = Duration::from_micros(500);

impl Regulator {
    /// For the settled addresses. Watches memory pressure where the kernel lets it.
    ///
    /// # Errors
    /// As for [`Sweeper::new`].
    pub fn new(settled: Settled, limits: Limits, features: &Features) -> Result<Self, Refused> {
        let sweeper = Sweeper::new(settled, limits.max_pause, features)?.watching_pressure();
        let (fencing, looking) = (Rest::SHORT, Rest::LONG);
        Ok(Self { sweeper, limits, growth: Growth::new(), fencing, looking })
    }

    /// Opens what steps need, in the process that takes them ([`Sweeper::attach`]).
    ///
    /// # Errors
    /// Those of open(2) and userfaultfd(2).
    pub fn attach(&mut self) -> Result<(), Errno> {
        self.sweeper.attach()
    }

    /// Sees how many tables there are, frees some if they are too many, and says when to come again.
    ///
    /// Costs some 10 us when there is nothing to do.
    ///
    /// # Errors
    /// Those of reading `/proc/self`.
    pub fn step(&mut self) -> Result<Step, Errno> {
        let tables = self.sweeper.page_tables()?;
        self.growth.see(tables, Instant::now());
        let outcome = match self.needed(tables) {
            Some((mode, goal)) => self.sweep(mode, goal)?,
            None => Outcome { before: tables, after: tables, ..Outcome::default() },
        };
        let now = Instant::now();
        self.growth.restart(outcome.after, now);
        let wait = match self.fencing.on(outcome.after, now) {
            Some(grown) if outcome.after >= self.alarm() => {
                self.growth.wait(grown.saturating_sub(outcome.after)).max(SHORTEST_WAIT_RESTING)
            }
            _ => self.growth.wait(self.limits.hard.saturating_sub(outcome.after)),
        };
        self.growth.due = now + wait;
        Ok(Step { outcome, wait })
    }

    /// From here on, those who add tables are held up.
    fn alarm(&self) -> Bytes {
        let hard = self.limits.hard;
        let early = hard.saturating_sub(Bytes(hard.0 / HEADROOM));
        early.saturating_sub(self.growth.until_next()).max(Bytes(hard.0 / 4))
    }

    /// How to sweep now, if at all, and down to what.
    fn needed(&mut self, tables: Bytes) -> Option<(Mode, Bytes)> {
        let Limits { soft, hard, .. } = self.limits;
        let low = Bytes((soft.0 - soft.0 / 4).min(hard.0 / 16));
        let now = Instant::now();
        if tables >= self.alarm() {
            let resting = self.fencing.on(tables, now).is_some();
            return (!resting).then_some((Mode::Fencing, low));
        }
        if self.looking.on(Bytes::ZERO, now).is_some() {
            return None;
        }
        if self.sweeper.pressure_seen() {
            return Some((Mode::Looking, Bytes::ZERO));
        }
        (tables > soft).then_some((Mode::Looking, low))
    }

    fn sweep(&mut self, mode: Mode, goal: Bytes) -> Result<Outcome, Errno> {
        let began = Instant::now();
        let mut outcome = self.sweeper.sweep_below(mode, goal, self.alarm())?;
        let in_vain = outcome.after > goal && outcome.after >= outcome.before;
        let may_look = self.looking.on(Bytes::ZERO, began).is_none();
        // Fencing leaves tables of the zero page alone; looking does not.
        if mode == Mode::Fencing && in_vain && may_look {
            let looks = Instant::now();
            let zero = self.sweeper.sweep(Mode::Looking, goal)?;
            outcome.merge(&zero);
            self.rested(Mode::Looking, &zero, goal, looks);
        }
        self.rested(mode, &outcome, goal, began);
        Ok(outcome)
    }

    /// Takes a rest from this mode if a sweep that began then gained little.
    fn rested(&mut self, mode: Mode, outcome: &Outcome, goal: Bytes, began: Instant) {
        let rest = match mode {
            Mode::Looking => &mut self.looking,
            Mode::Fencing => &mut self.fencing,
        };
        let least = Bytes(self.limits.hard.0 / 16);
        let now = Instant::now();
        rest.after(outcome, goal, least, now.duration_since(began), now);
    }
}

impl Growth {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, from: Bytes::ZERO, rate: 0.0, lateness: Duration::ZERO, due: now }
    }

    fn see(&mut self, tables: Bytes, now: Instant) {
        let seconds = now.duration_since(self.since).as_secs_f64().max(20e-6);
        let grown = tables.saturating_sub(self.from).0 as f64;
        self.rate = (grown / seconds).min(FASTEST).max(self.rate * 0.8);
        let late = now.saturating_duration_since(self.due);
        self.lateness = late.max(self.lateness.mul_f64(0.995)).min(LONGEST_LATENESS);
    }

    fn restart(&mut self, tables: Bytes, now: Instant) {
        (self.since, self.from) = (now, tables);
    }

    /// What may be added before the next step can act.
    fn until_next(&self) -> Bytes {
        let seconds = (SHORTEST_WAIT * 2 + self.lateness).as_secs_f64();
        bytes(self.rate * seconds)
    }

    /// How long `room` lasts: half of that at the present rate, all of it at the fastest.
    fn wait(&self, room: Bytes) -> Duration {
        let room = room.0 as f64;
        let seconds = (room / FASTEST).min(room / 4.0 / self.rate.max(1.0));
        let lasts = Duration::from_secs_f64(seconds);
        // Sooner by as much as steps come late, but never over and over: on a slow machine that
        // alone would keep a processor busy.
        lasts.saturating_sub(self.lateness).max(lasts / 4).clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}

/// A whole number of bytes, at most 2^52.
fn bytes(amount: f64) -> Bytes {
    // In this range the cast only drops the fraction.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Bytes(amount.clamp(0.0, 4.5e15) as u64)
}

/// A thread of this process that keeps [`Limits`], until it is dropped. It asks for the lowest
/// real-time priority (`SCHED_RR` 1) if it may. A forked child has no such thread.
///
/// Where there is more than one processor (and one more thread can be made) it has a mate, another thread that frees half of what is behind
/// each large fence: those who wait there leave a processor free anyway, and so wait half as long. (A
/// [`Regulator`] that somebody else steps, as the companion does, works alone, and so does a keeper where
/// tables go by mapping anew.)
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    outcome: Mutex<Outcome>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// As for [`Sweeper::new`], or if no thread can be made.
    pub fn start(settled: Settled, limits: Limits, features: &Features) -> Result<Self, Refused> {
        let mut regulator = Regulator::new(settled, limits, features)?;
        regulator.sweeper = regulator.sweeper.with_mate();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("recoup-tables".to_owned())
            .spawn(move || keep(regulator, &theirs))
            .map_err(|e| Refused::thread(&e))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What was done so far, all steps together.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        *self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Pairs with the load in `keep`; the join orders everything else.
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A keeper has nothing to report that a panic could take along.
            let _ = thread.join();
        }
    }
}

fn keep(mut regulator: Regulator, shared: &Shared) {
    urgency::short_bursts();
    while !shared.ended.load(Ordering::Relaxed) {
        let step = regulator.step();
        let wait = step.as_ref().map_or(LONGEST_WAIT, |step| step.wait);
        if let Ok(step) = step {
            let mut outcome = shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.merge(&step.outcome);
        }
        std::thread::park_timeout(wait);
    }
}
