//! Numbers that look random and are the same in every run.

/// A generator (xorshift64).
#[derive(Clone, Copy, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// One for each seed; 0 counts as 1, since it would give nothing but zeroes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number, below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// The next place among so many.
    ///
    /// # Panics
    /// If there are none.
    pub fn index(&mut self, places: usize) -> usize {
        usize::try_from(self.below(places as u64)).expect("an index")
    }
}
