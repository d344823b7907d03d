//! What sweeps did: plain numbers.

use std::time::Duration;

use recoup_sys::Bytes;

/// How long fences were up: an upper bound for how long one kept any thread from going on. How long such a
/// thread then waits for a processor, like any that wakes up, is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// How many fences were up for less than `2^i` us, but not for less than half of that; the last
    /// place has all longer ones.
    pub histogram: [u64; Self::PLACES],
    /// How many of them were longer than allowed.
    pub over_budget: u64,
    /// The longest.
    pub longest: Duration,
    /// All together.
    pub total: Duration,
}

impl Pauses {
    /// Places of the histogram: up to half a second.
    pub const PLACES: usize = 20;

    pub(super) fn add(&mut self, pause: Duration, allowed: Duration) {
        let micros = pause.as_micros().try_into().unwrap_or(u64::MAX);
        let place = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(count) = self.histogram.get_mut(place.min(Self::PLACES - 1)) {
            *count += 1;
        }
        self.over_budget += u64::from(pause > allowed);
        self.longest = self.longest.max(pause);
        self.total += pause;
    }

    /// How many fences there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.iter().sum()
    }

    fn merge(&mut self, other: &Self) {
        self.histogram.iter_mut().zip(other.histogram).for_each(|(sum, count)| *sum += count);
        self.over_budget += other.over_budget;
        self.longest = self.longest.max(other.longest);
        self.total += other.total;
    }
}

/// What one or more sweeps did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Page tables (`VmPTE`) before the first sweep.
    pub before: Bytes,
    /// Page tables after the last. The kernel frees tables some milliseconds late (RCU).
    pub after: Bytes,
    /// What fences were seen to free. Others may add tables elsewhere meanwhile, so it is rather too
    /// little than too much.
    pub freed: Bytes,
    /// Times that tables were looked for.
    pub sweeps: u64,
    /// Fences that were raised.
    pub pauses: Pauses,
    /// Ranges that the kernel refused to fence or to discard from: locked, watched by another
    /// userfaultfd, droppable, sealed, or gone meanwhile.
    pub left_alone: u64,
}

impl Outcome {
    pub(super) fn merge(&mut self, later: &Self) {
        if self.sweeps == 0 {
            self.before = later.before;
        }
        self.after = later.after;
        self.freed += later.freed;
        self.sweeps += later.sweeps;
        self.left_alone += later.left_alone;
        self.pauses.merge(&later.pauses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_has_its_place() {
        let mut pauses = Pauses::default();
        for micros in [0, 1, 2, 3, 4, 1_000_000_000] {
            pauses.add(Duration::from_micros(micros), Duration::from_micros(2));
        }
        assert_eq!(pauses.histogram[..4], [1, 1, 2, 1]);
        assert_eq!(pauses.histogram[Pauses::PLACES - 1], 1);
        assert_eq!((pauses.count(), pauses.over_budget), (6, 3));
        assert_eq!(pauses.longest, Duration::from_secs(1000));
    }
}
