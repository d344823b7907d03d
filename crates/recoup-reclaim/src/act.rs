//! Carries out a plan: requests in batches, paced so that the target never waits long.

use std::io;
use std::time::{Duration, Instant};

use recoup_sys::kpage::Frames;
use recoup_sys::madvise::{MAX_RANGES, process_madvise};
use recoup_sys::pagemap::{Pagemap, Word};
use recoup_sys::{Error, PageRange, Pages, Process, Result};

use crate::outcome::{LeftAlone, Reason};
use crate::plan::Action;
use crate::scan::holes::Hole;
use crate::scan::lazyfree::is_lazily_freed;

/// Decides how many requests one call makes.
///
/// From Linux 6.15 on a call holds the target's mmap lock for reading from its first range to its
/// last, and a target that wants to map or unmap waits as long. So each call is made as long as the
/// last one's time per range allows; the first has few ranges.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    longest: Duration,
    batch: usize,
}

impl Pace {
    /// What a target may wait unless the user says otherwise.
    pub const DEFAULT_LONGEST: Duration = Duration::from_millis(2);
    const FIRST_BATCH: usize = 4;

    /// A pace at which no call should take longer than this.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, batch: Self::FIRST_BATCH }
    }

    /// How many ranges the next call should have.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Learns from a call: aims at half of what is allowed, since the next ranges may be dearer,
    /// and grows by no more than twice.
    pub fn learn(&mut self, ranges: usize, took: Duration) {
        let nanos_each = (took.as_nanos() / ranges.max(1) as u128).max(1);
        let fitting = (self.longest / 2).as_nanos() / nanos_each;
        let fitting = usize::try_from(fitting).unwrap_or(MAX_RANGES);
        self.batch = fitting.clamp(1, MAX_RANGES.min(self.batch * 2));
    }
}

/// The process that is acted on, with what is needed to look at it.
#[derive(Debug)]
pub struct Target<'a, F> {
    /// The process.
    pub process: &'a Process,
    /// Its address space.
    pub pagemap: &'a Pagemap,
    /// The host's frames.
    pub frames: &'a F,
}

/// Carries out the actions in their order and returns those that were asked of the kernel without
/// its refusing; whether they had an effect, only a second look tells ([`crate::verify`]). What was
/// not asked, or was refused, is added to `left_alone`.
///
/// # Errors
/// `EPERM` where the privilege is missing, and whatever else concerns not one range but the whole
/// process; [`Error::is_gone`] tells that it merely ended. What was done until then stays done.
pub fn act<F: Frames>(
    target: &Target<'_, F>,
    actions: &[Action],
    pace: &mut Pace,
    left_alone: &mut LeftAlone,
) -> Result<Vec<Action>> {
    let mut asked = Vec::with_capacity(actions.len());
    for same_advice in actions.chunk_by(|a, b| a.advice() == b.advice()) {
        let mut rest = same_advice;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(pace.batch().min(rest.len()));
            rest = later;
            let mut ready = Vec::with_capacity(batch.len());
            for action in batch {
                if is_as_found(target, action)? {
                    ready.push(*action);
                } else {
                    left_alone.add(Reason::Changed, action.gain());
                }
            }
            request(target.process, &ready, pace, left_alone, &mut asked)?;
        }
    }
    Ok(asked)
}

/// Asks the kernel for a batch of actions of the same advice.
fn request(
    process: &Process,
    mut batch: &[Action],
    pace: &mut Pace,
    left_alone: &mut LeftAlone,
    asked: &mut Vec<Action>,
) -> Result<()> {
    while let Some(first) = batch.first() {
        let ranges: Vec<PageRange> = batch.iter().map(Action::range).collect();
        let began = Instant::now();
        let advised = process_madvise(process, &ranges, first.advice());
        let completed = completed_ranges(&ranges, advised.done);
        pace.learn(completed.max(1), began.elapsed());
        asked.extend_from_slice(&batch[..completed]);
        batch = &batch[completed..];
        // Why the call stopped is only known where it stopped at its first range.
        let refused = advised.stopped.filter(|_| completed == 0).zip(batch.split_first());
        if let Some((error, (action, later))) = refused {
            let reason = refusal(&error)
                .ok_or_else(|| Error::os("advise", format!("process {}", process.pid()), error))?;
            left_alone.add(reason, action.gain());
            batch = later;
        }
    }
    Ok(())
}

/// How many of the ranges fit into `done` whole.
fn completed_ranges(ranges: &[PageRange], done: Pages) -> usize {
    let mut sum = Pages::ZERO;
    ranges
        .iter()
        .take_while(|range| {
            sum += range.length();
            sum <= done
        })
        .count()
}

/// What the refusal of one range means; nothing if it concerns the whole process.
fn refusal(error: &io::Error) -> Option<Reason> {
    match error.kind() {
        io::ErrorKind::InvalidInput => Some(Reason::Locked),
        io::ErrorKind::OutOfMemory => Some(Reason::Changed),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => {
            Some(Reason::Busy)
        }
        _ => None,
    }
}

/// Whether what was found is still there, looked at right before it is acted on: a huge page that
/// is whole by now must not be split, and memory in use by now must not be paged out.
fn is_as_found<F: Frames>(target: &Target<'_, F>, action: &Action) -> Result<bool> {
    match action {
        Action::Split(hole) => still_has_hole(target.pagemap, hole),
        Action::Drop(range) => {
            let word = target.pagemap.word(range.start)?.ok_or(Error::AddressSpaceGone)?;
            let Some(frame) = word.frame().filter(|_| word.is_present_anonymous()) else {
                return Ok(false);
            };
            is_lazily_freed(frame, target.frames)
        }
    }
}

fn still_has_hole(pagemap: &Pagemap, hole: &Hole) -> Result<bool> {
    let range = hole.range();
    let mut words = [0; recoup_sys::units::PAGES_PER_BLOCK];
    let words = &mut words[..1 << hole.order];
    if pagemap.read(range.start, words)? < words.len() {
        return Err(Error::AddressSpaceGone);
    }
    let head = hole.frame.align_down(hole.order);
    let expected = |index: usize| Some(head + Pages(index as u64));
    let mapped = |(index, &word): (usize, &u64)| Word(word).frame() == expected(index);
    let page = hole.mapped_page - range.start;
    let page_is_there = words.iter().enumerate().any(|(i, w)| i as u64 == page.0 && mapped((i, w)));
    let all_is_there = words.iter().enumerate().all(mapped);
    Ok(page_is_there && !all_is_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use recoup_sys::PageIdx;

    #[test]
    fn a_call_is_made_as_long_as_the_pause_allows() {
        let mut pace = Pace::new(Duration::from_millis(2));
        for _ in 0..12 {
            pace.learn(
                pace.batch(),
                Duration::from_micros(100) * u32::try_from(pace.batch()).unwrap(),
            );
        }
        assert_eq!(pace.batch(), 10);
        pace.learn(10, Duration::from_millis(50));
        assert_eq!(pace.batch(), 1, "a slow call is followed by the shortest one");
    }

    #[test]
    fn a_batch_never_has_more_ranges_than_the_kernel_takes() {
        let mut pace = Pace::new(Duration::from_secs(10));
        (0..30).for_each(|_| pace.learn(1, Duration::from_nanos(1)));
        assert_eq!(pace.batch(), MAX_RANGES);
    }

    #[test]
    fn only_ranges_that_were_advised_whole_count_as_completed() {
        let ranges = [
            PageRange::starting_at(PageIdx(0), Pages(2)),
            PageRange::starting_at(PageIdx(9), Pages(3)),
        ];
        assert_eq!(completed_ranges(&ranges, Pages(1)), 0);
        assert_eq!(completed_ranges(&ranges, Pages(4)), 1);
        assert_eq!(completed_ranges(&ranges, Pages(5)), 2);
    }
}
