//! Compares two things on a noisy machine: in turn, within one run, by the median of the ratios.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a comparison measured.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Times of the thing measured, one a round.
    pub subject: Vec<Duration>,
    /// Times of what it is compared with, one a round.
    pub baseline: Vec<Duration>,
}

impl Comparison {
    /// Runs both in turn for some rounds, after one that isn't counted. Each closure returns the
    /// time that counts; [`timed`] takes all of it.
    pub fn run(
        rounds: usize,
        mut subject: impl FnMut() -> Duration,
        mut baseline: impl FnMut() -> Duration,
    ) -> Self {
        let mut comparison = Self { subject: Vec::new(), baseline: Vec::new() };
        for round in 0..=rounds {
            let (s, b) = (subject(), baseline());
            if round > 0 {
                comparison.subject.push(s);
                comparison.baseline.push(b);
            }
        }
        comparison
    }

    /// The median over rounds of subject by baseline.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let pairs = self.subject.iter().zip(&self.baseline);
        median(pairs.map(|(s, b)| s.as_secs_f64() / b.as_secs_f64()).collect())
    }

    /// The median time of the subject in milliseconds.
    #[must_use]
    pub fn subject_ms(&self) -> f64 {
        median(self.subject.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// The median time of the baseline in milliseconds.
    #[must_use]
    pub fn baseline_ms(&self) -> f64 {
        median(self.baseline.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }
}

/// How long something takes.
pub fn timed(thing: impl FnOnce()) -> Duration {
    let began = Instant::now();
    thing();
    began.elapsed()
}

/// How long something keeps a processor busy: unlike its time on the clock, this does not grow when
/// other programs run meanwhile.
pub fn cpu_time(thing: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let began = now();
    thing();
    now().saturating_sub(began)
}

/// The middle of some numbers, 0 for none.
#[must_use]
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
