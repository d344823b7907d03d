//! A bitmap of fixed size, in plain words: it has a single writer.
//!
//! Bits past the end do not exist: asking for one says that it is not set, and changing one does
//! nothing. So no operation can panic. The width is a parameter, so that the tests can try all of a
//! small one.

use core::iter;
use core::ops::{BitAnd, BitOr, Not, Range};

/// Bits in a word.
pub(crate) const WORD: usize = u64::BITS as usize;

/// A bitmap of `WORDS` times 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits<const WORDS: usize>([u64; WORDS]);

/// One bit for each chunk of a superchunk, or for each page of a chunk.
pub type Bits512 = Bits<8>;

const _: () = assert!(Bits512::BITS == crate::units::CHUNKS_PER_SUPERCHUNK);
const _: () = assert!(Bits512::BITS == crate::units::PAGES_PER_CHUNK);

impl<const WORDS: usize> Bits<WORDS> {
    /// How many bits there are.
    pub const BITS: usize = WORDS * WORD;
    /// No bit is set.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// All bits are set.
    pub const FULL: Self = Self([u64::MAX; WORDS]);

    /// The bitmap of these words, bit 0 being the lowest of the first.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// A word of the bitmap, or nothing past its end.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn contains(&self, bit: usize) -> bool {
        self.word(bit / WORD) >> (bit % WORD) & 1 == 1
    }

    /// Whether no bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Whether some bit of a range is set.
    #[must_use]
    pub fn intersects(&self, range: Range<usize>) -> bool {
        spans::<WORDS>(range).any(|(index, mask)| self.word(index) & mask != 0)
    }

    /// Whether all bits of a range are set, as far as they exist.
    #[must_use]
    pub fn contains_all(&self, range: Range<usize>) -> bool {
        spans::<WORDS>(range).all(|(index, mask)| self.word(index) & mask == mask)
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// How many bits of a range are set.
    #[must_use]
    pub fn count_in(&self, range: Range<usize>) -> usize {
        let in_word = |(index, mask): (usize, u64)| (self.word(index) & mask).count_ones() as usize;
        spans::<WORDS>(range).map(in_word).sum()
    }

    /// Sets one bit.
    pub fn insert(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / WORD) {
            *word |= 1 << (bit % WORD);
        }
    }

    /// Clears one bit.
    pub fn remove(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / WORD) {
            *word &= !(1 << (bit % WORD));
        }
    }

    /// Sets all bits of a range.
    pub fn insert_range(&mut self, range: Range<usize>) {
        for (index, mask) in spans::<WORDS>(range) {
            self.0[index] |= mask;
        }
    }

    /// Clears all bits of a range.
    pub fn remove_range(&mut self, range: Range<usize>) {
        for (index, mask) in spans::<WORDS>(range) {
            self.0[index] &= !mask;
        }
    }

    /// The first set bit at or after `from`. Looks at each word once.
    #[must_use]
    pub fn next_set(&self, from: usize) -> Option<usize> {
        next_one(&self.0, from, |word| word)
    }

    /// The first clear bit at or after `from`. Looks at each word once.
    #[must_use]
    pub fn next_clear(&self, from: usize) -> Option<usize> {
        next_one(&self.0, from, |word| !word)
    }

    /// The set bits, in order.
    pub fn ones(&self) -> impl Iterator<Item = usize> + use<WORDS> {
        let bits = *self;
        iter::successors(bits.next_set(0), move |&bit| bits.next_set(bit + 1))
    }

    /// The longest possible runs of set bits, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<WORDS> {
        let bits = *self;
        let run_from = move |from| {
            let start = bits.next_set(from)?;
            Some(start..bits.next_clear(start).unwrap_or(Self::BITS))
        };
        iter::successors(run_from(0), move |run| run_from(run.end))
    }

    /// The lowest start of `length` set bits in a row that is a multiple of `alignment`. Looks at
    /// each run once. Lengths and alignments below 1 count as 1.
    #[must_use]
    pub fn find_run(&self, length: usize, alignment: usize) -> Option<usize> {
        if length <= 1 && alignment <= 1 {
            return self.next_set(0);
        }
        self.runs().find_map(|run| {
            let start = run.start.next_multiple_of(alignment.max(1));
            (start < run.end && run.end - start >= length).then_some(start)
        })
    }
}

/// The first bit at or after `from` that is set once `view` has been applied to its word.
fn next_one(words: &[u64], from: usize, view: impl Fn(u64) -> u64) -> Option<usize> {
    let mut index = from / WORD;
    let mut word = view(*words.get(index)?) & (u64::MAX << (from % WORD));
    while word == 0 {
        index += 1;
        word = view(*words.get(index)?);
    }
    Some(index * WORD + word.trailing_zeros() as usize)
}

/// The words that a range touches, each below `WORDS`, with its bits of the range.
pub(crate) fn spans<const WORDS: usize>(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let end = range.end.min(WORDS * WORD);
    let touched = if range.start < end { range.start / WORD..end.div_ceil(WORD) } else { 0..0 };
    touched.map(move |index| {
        let low = range.start.saturating_sub(index * WORD);
        let high = (end - index * WORD).min(WORD);
        // Both ends are in this word, and `low < high`: neither shift reaches 64.
        (index, u64::MAX >> (WORD - (high - low)) << low)
    })
}

impl<const WORDS: usize> BitAnd for Bits<WORDS> {
    type Output = Self;
    fn bitand(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }
}

impl<const WORDS: usize> BitOr for Bits<WORDS> {
    type Output = Self;
    fn bitor(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
        self
    }
}

impl<const WORDS: usize> Not for Bits<WORDS> {
    type Output = Self;
    fn not(mut self) -> Self {
        self.0.iter_mut().for_each(|word| *word = !*word);
        self
    }
}

#[cfg(test)]
mod tests;
