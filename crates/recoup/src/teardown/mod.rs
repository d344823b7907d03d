//! Frees large ranges of memory by several threads, or behind the caller's back.
//!
//! `munmap` of 12 GiB of 4 KiB pages takes a third of a second, on one processor, while the caller
//! waits. [`free_parallel`] shares it out among threads; [`free_in_background`] lets the caller go
//! on; [`unmap_later`] is a `munmap` that doesn't keep its caller.
//!
//! Memory is cut into slices of at least 32 MiB (smaller ones gain nothing) that end at multiples of
//! their size, so that no page table or huge page is worked on by two threads. Each slice is one
//! `MADV_DONTNEED`, which takes the mmap lock for reading only: other threads of the program can
//! fault and free meanwhile, but not map.

mod background;
mod board;
mod crew;
mod gain;
#[cfg(all(test, loom))]
mod orders;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use recoup_sys::units::PMD_TABLE_SPAN;
use recoup_sys::{Bytes, Error, PageRange, Pages};

pub use background::{Background, free_in_background, unmap_later};
pub use recoup_sys::mapped::OwnedMapping;
pub use recoup_sys::own::Released;

/// How many threads free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as still gain, measured while they work: one more as long as the last one made it at
    /// least 10 % faster, and never more than this.
    Adaptive(NonZeroUsize),
    /// So many.
    Exactly(NonZeroUsize),
}

impl Default for Workers {
    /// Adaptive, up to the processors that this process may use.
    fn default() -> Self {
        Self::Adaptive(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

/// Called after each slice with the bytes done so far, by whichever thread did it; `Break` cancels
/// what is not yet begun. Short, since the other threads may wait for it.
pub type Progress<'p> = dyn Fn(Bytes) -> ControlFlow<()> + Send + Sync + 'p;

/// How to free memory.
#[derive(Clone, Copy, Default)]
pub struct Options<'p> {
    /// By how many threads.
    pub workers: Workers,
    /// Who is told how far it is.
    pub progress: Option<&'p Progress<'p>>,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// What became of memory that was to be freed.
#[derive(Debug, Default)]
pub struct Freed<'a> {
    /// Given back to the kernel.
    pub freed: Bytes,
    /// Slices that were refused, whole or from some page on; the others were freed all the same.
    pub failures: Vec<Failure>,
    /// What was not begun when it was cancelled. It is as it was.
    pub untouched: Vec<Released<'a>>,
    /// The most threads that worked at once.
    pub workers: usize,
}

/// A slice that could not be freed.
#[derive(Debug)]
pub struct Failure {
    /// Its pages. A part of them, from the start on, may have been freed.
    pub pages: PageRange,
    /// Why.
    pub error: Error,
    /// How much had been freed before, of all the ranges.
    pub freed_before: Bytes,
}

/// Frees disjoint ranges of memory and waits for it; the calling thread works as well.
///
/// Costs, on one thread, 0.1 us a page of 4 KiB or 7 us a huge page; two threads take about 0.55 of
/// the time of one. Threads that cannot be made are done without.
#[must_use]
pub fn free_parallel<'a>(ranges: Vec<Released<'a>>, options: &Options<'_>) -> Freed<'a> {
    let most = match options.workers {
        Workers::Adaptive(most) | Workers::Exactly(most) => most.get(),
    };
    crew::run(cut(ranges, most), options)
}

/// Slices for so many workers, in order.
fn cut(ranges: Vec<Released<'_>>, workers: usize) -> Vec<Released<'_>> {
    let total: Pages = ranges.iter().map(|range| range.pages().length()).sum();
    let unit = unit(total, workers);
    let mut cut = Vec::new();
    for range in ranges {
        let unit = unit.max(range.backing().page_size().whole_pages());
        let mut rest = range;
        for slice in recoup_sys::slices::slices(rest.pages(), unit) {
            let (first, behind) = rest.split_at(slice.end);
            cut.push(first);
            rest = behind;
        }
    }
    cut
}

/// The size of slices: large enough to need few of them, small enough for workers to end together.
fn unit(total: Pages, workers: usize) -> Pages {
    const SLICES_A_WORKER: u64 = 32;
    let slices = SLICES_A_WORKER.saturating_mul(workers as u64).max(1);
    let even = (total.0 / slices).checked_next_power_of_two().unwrap_or(u64::MAX);
    let largest = PMD_TABLE_SPAN.whole_pages().0;
    Pages(even.clamp(recoup_sys::slices::SMALLEST.0, largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 18;

    #[test]
    fn slices_grow_with_the_memory_from_32_mib_to_a_gigabyte() {
        assert_eq!(unit(Pages(GIB), 2), recoup_sys::slices::SMALLEST);
        assert_eq!(unit(Pages(16 * GIB), 2), Pages(GIB / 4));
        assert_eq!(unit(Pages(4096 * GIB), 2), Pages(GIB));
        assert_eq!(unit(Pages(0), 0), recoup_sys::slices::SMALLEST);
    }
}
