//! How long to leave off sweeping after a sweep that gained little.

use std::time::{Duration, Instant};

use recoup_sys::Bytes;

use super::Outcome;

/// A rest that gets longer from one sweep in vain to the next, as a multiple of what that one took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    first: u32,
    next: u32,
    until: Option<Instant>,
    /// Tables from here on end the rest: there is something new to find.
    grown_to: Bytes,
}

/// The longest rest leaves some 1.5 % of a processor for sweeps in vain.
const LONGEST: u32 = 64;
const SHORTEST: Duration = Duration::from_millis(20);
/// A sweep is worth its price if it frees this part of the tables.
const WORTH: u64 = 8;

impl Rest {
    /// For what is urgent: after the first sweep in vain as long as that took.
    pub(super) const SHORT: Self = Self::starting_with(1);
    /// For what is not: 3 % of a processor at most.
    pub(super) const LONG: Self = Self::starting_with(32);

    const fn starting_with(first: u32) -> Self {
        Self { first, next: first, until: None, grown_to: Bytes(u64::MAX) }
    }

    /// After a sweep towards `goal`. Growth by an eighth, but no less than `least`, ends the rest.
    pub(super) fn after(
        &mut self,
        outcome: &Outcome,
        goal: Bytes,
        least: Bytes,
        took: Duration,
        now: Instant,
    ) {
        let enough = outcome.freed.0 >= outcome.before.0 / WORTH;
        if outcome.after <= goal || enough {
            (self.next, self.until) = (self.first, None);
            return;
        }
        self.until = now.checked_add((took * self.next).max(SHORTEST));
        self.grown_to = outcome.after + Bytes(outcome.after.0 / WORTH).max(least);
        self.next = (self.next * 2).min(LONGEST);
    }

    /// The number of bytes of tables at which the rest that is on ends before its time.
    pub(super) fn on(&self, tables: Bytes, now: Instant) -> Option<Bytes> {
        let on = self.until.is_some_and(|until| now < until) && tables < self.grown_to;
        on.then_some(self.grown_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TOOK: Duration = Duration::from_millis(50);

    fn swept(freed: u64) -> Outcome {
        let (before, after) = (Bytes(64 * MIB), Bytes((64 - freed) * MIB));
        Outcome { before, after, freed: Bytes(freed * MIB), ..Outcome::default() }
    }

    #[test]
    fn rests_get_longer_until_a_sweep_gains() {
        let (mut rest, now) = (Rest::SHORT, Instant::now());
        let goal = Bytes(MIB);
        let tables = Bytes(64 * MIB);
        for factor in [1, 2, 4, 8, 16, 32, 64, 64] {
            rest.after(&swept(0), goal, Bytes(MIB), TOOK, now);
            assert!(rest.on(tables, now + TOOK * factor - Duration::from_millis(1)).is_some());
            assert!(rest.on(tables, now + TOOK * factor).is_none());
        }
        rest.after(&swept(16), goal, Bytes(MIB), TOOK, now);
        assert_eq!(rest.on(tables, now), None);
        rest.after(&swept(0), goal, Bytes(MIB), TOOK, now);
        assert!(rest.on(tables, now + TOOK).is_none());
    }

    #[test]
    fn growth_ends_a_rest() {
        let (mut rest, now) = (Rest::LONG, Instant::now());
        rest.after(&swept(0), Bytes(MIB), Bytes(MIB), TOOK, now);
        assert_eq!(rest.on(Bytes(71 * MIB), now), Some(Bytes(72 * MIB)));
        assert_eq!(rest.on(Bytes(72 * MIB), now), None);
    }
}
