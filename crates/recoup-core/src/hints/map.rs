//! The bits that say what was freed.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicIsize, AtomicU64, Ordering};

use core::ops::Range;

use crate::bits::WORD;

/// 64 hints.
pub type Word = AtomicU64;

/// One bit for each extent: was it freed since a worker last looked?
///
/// Atomic because its words have two writers: the threads that free, each after it has let go of its
/// book's lock, and the worker, which takes hints before it takes that lock. Extents past the map's
/// end are not hinted.
#[derive(Debug)]
pub struct HintMap<S> {
    words: S,
    /// How many bits are set. Both writers change it after the bit, so for a moment it may be too
    /// small or even negative; it never drifts.
    pending: AtomicIsize,
}

impl<S: AsRef<[Word]>> HintMap<S> {
    /// A map of 64 extents for each word of this storage, with the hints that it has.
    #[must_use]
    pub fn new(words: S) -> Self {
        let map = Self { words, pending: AtomicIsize::new(0) };
        for word in map.words.as_ref() {
            map.count(isize::try_from(word.load(Ordering::Relaxed).count_ones()).unwrap_or(0));
        }
        map
    }

    /// How many hints wait, give or take those that are being set or taken at this moment.
    #[must_use]
    pub fn pending(&self) -> usize {
        // Relaxed: an estimate, which nothing else follows from.
        usize::try_from(self.pending.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Hints extents that the caller has freed in its book before. Says how many hints wait now.
    /// Costs an atomic operation for each word, and one more if a hint is new.
    pub fn hint(&self, extents: Range<usize>) -> usize {
        let mut new = 0;
        let words = self.words.as_ref();
        let mut from = extents.start;
        while from < extents.end {
            let Some(word) = words.get(from / WORD) else { break };
            let to = extents.end.min((from / WORD + 1) * WORD);
            let mask = u64::MAX >> (WORD - (to - from)) << (from % WORD);
            // Also where all bits are set already. A look instead could see bits that the worker is
            // just taking because of an earlier free, and this one would be forgotten.
            // Release pairs with the Acquire in `take`: who takes the hint sees the memory as free,
            // also where no lock of the book's says so.
            let before = word.fetch_or(mask, Ordering::Release);
            new += (mask & !before).count_ones();
            from = to;
        }
        self.count(isize::try_from(new).unwrap_or(0))
    }

    /// Takes the first hint at or after `from`.
    pub(super) fn take(&self, from: usize) -> Option<usize> {
        let words = self.words.as_ref();
        let mut below = (1 << (from % WORD)) - 1;
        for (index, word) in words.iter().enumerate().skip(from / WORD) {
            loop {
                // Relaxed: what counts is the operation below.
                let hints = word.load(Ordering::Relaxed) & !below;
                if hints == 0 {
                    break;
                }
                let bit = hints & hints.wrapping_neg();
                // Another worker may have been faster.
                if word.fetch_and(!bit, Ordering::Acquire) & bit != 0 {
                    self.count(-1);
                    return Some(index * WORD + bit.trailing_zeros() as usize);
                }
            }
            below = 0;
        }
        None
    }

    fn count(&self, change: isize) -> usize {
        let before = if change == 0 {
            self.pending.load(Ordering::Relaxed)
        } else {
            self.pending.fetch_add(change, Ordering::Relaxed)
        };
        usize::try_from(before.wrapping_add(change)).unwrap_or(0)
    }
}
