//! How much to do behind one fence, from how long the last ones took.

use std::time::Duration;

use recoup_sys::Pages;
use recoup_sys::units::PAGES_PER_BLOCK;

/// Aims at a part of the longest pause allowed: what is left is for a fencing thread that loses its
/// processor meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    max_pause: Duration,
    blocks: u64,
}

/// A fence is to take this part of the longest pause.
const SHARE: u32 = 5;
const FEWEST: u64 = 16;
const MOST: u64 = 1 << 14;

impl Pace {
    pub(super) fn new(max_pause: Duration) -> Self {
        Self { max_pause, blocks: 256 }
    }

    /// The longest pause allowed.
    pub(super) fn max_pause(&self) -> Duration {
        self.max_pause
    }

    /// When a fence should come down.
    pub(super) fn budget(&self) -> Duration {
        self.max_pause / SHARE
    }

    /// How much address space to look at in one go, with a fence up or without.
    pub(super) fn portion(&self) -> Pages {
        Pages(self.blocks * PAGES_PER_BLOCK as u64)
    }

    /// One go took this long. Four should fit into a budget, so that its end is seen in time.
    pub(super) fn took(&mut self, time: Duration) {
        let aim = self.budget() / 4;
        if time > aim {
            self.blocks = (self.blocks / 2).max(FEWEST);
        } else if time < aim / 2 {
            self.blocks = (self.blocks * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_shrink_at_once_and_grow_back() {
        let mut pace = Pace::new(Duration::from_millis(10));
        let first = pace.portion();
        pace.took(Duration::from_millis(5));
        assert_eq!(pace.portion().0, first.0 / 2);
        pace.took(Duration::from_micros(300));
        assert_eq!(pace.portion().0, first.0 / 2);
        pace.took(Duration::from_micros(10));
        assert_eq!(pace.portion(), first);
    }

    #[test]
    fn portions_have_bounds() {
        let mut pace = Pace::new(Duration::from_millis(10));
        (0..100).for_each(|_| pace.took(Duration::from_secs(1)));
        assert_eq!(pace.portion().0, FEWEST * 512);
        (0..100).for_each(|_| pace.took(Duration::ZERO));
        assert_eq!(pace.portion().0, MOST * 512);
    }
}
