//! Carries out a plan: requests in batches, paced so that the target never waits long.

use std::io;
use std::time::{Duration, Instant};

use recoup_sys::kpage::Frames;
use recoup_sys::madvise::{MAX_RANGES, process_madvise};
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, Error, PageRange, Pages, Process, Result};

use crate::outcome::{LeftAlone, Reason};
use crate::plan::Action;
use crate::recheck;

/// Decides how much one call asks for.
///
/// From Linux 6.15 on a call holds the target's mmap lock for reading from its first range to its
/// last, and a target that wants to map or unmap waits as long. So each call is made as long as the
/// last one's time per page allows; the first is short.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    longest: Duration,
    pages: Pages,
}

impl Pace {
    /// What a target may wait unless the user says otherwise.
    pub const DEFAULT_LONGEST: Duration = Duration::from_millis(2);
    /// What the first call asks for: one huge page.
    const FIRST: Pages = BLOCK.whole_pages();

    /// A pace at which no call should take longer than this.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, pages: Self::FIRST }
    }

    /// How many of the actions the next call should make: at least one.
    #[must_use]
    pub fn batch(&self, actions: &[Action]) -> usize {
        let mut sum = Pages::ZERO;
        let fitting = actions.iter().take(MAX_RANGES).take_while(|action| {
            sum += action.work();
            sum <= self.pages
        });
        fitting.count().max(1).min(actions.len())
    }

    /// Learns from a call: aims at half of what is allowed, since the next pages may be dearer, and
    /// grows by no more than twice.
    pub fn learn(&mut self, worked: Pages, took: Duration) {
        let fitting = (self.longest / 2).as_nanos() * u128::from(worked.0) / took.as_nanos().max(1);
        let fitting = u64::try_from(fitting).unwrap_or(u64::MAX);
        self.pages = Pages(fitting.clamp(1, self.pages.0.saturating_mul(2)));
    }
}

/// A pace for each kind of advice: their costs differ.
#[derive(Clone, Copy, Debug)]
pub struct Paces {
    split: Pace,
    drop: Pace,
}

impl Paces {
    /// Paces at which no call should take longer than this.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { split: Pace::new(longest), drop: Pace::new(longest) }
    }

    fn of(&mut self, action: &Action) -> &mut Pace {
        match action {
            Action::Split(_) => &mut self.split,
            Action::Drop(_) => &mut self.drop,
        }
    }
}

/// The process that is acted on, with what is needed to look at it.
#[derive(Debug)]
pub struct Target<'a, F> {
    /// The process.
    pub process: &'a Process,
    /// The host's frames.
    pub frames: &'a F,
}

/// Carries out the actions in their order and returns those that were asked of the kernel without
/// its refusing; whether they had an effect, only a second look tells ([`crate::verify`]). What was
/// not asked, or was refused, is added to `left_alone`.
///
/// Each batch is looked at again right before it is asked for, through a `pagemap` opened for it: so
/// what is looked at is the address space that the process has then, also after an execve(2).
///
/// # Errors
/// `EPERM` where the privilege is missing, and whatever else concerns not one range but the whole
/// process; [`Error::is_gone`] tells that it merely ended. What was done until then stays done.
pub fn act<F: Frames>(
    target: &Target<'_, F>,
    actions: &[Action],
    paces: &mut Paces,
    left_alone: &mut LeftAlone,
) -> Result<Vec<Action>> {
    let mut asked = Vec::with_capacity(actions.len());
    for same_advice in actions.chunk_by(|a, b| a.advice() == b.advice()) {
        let mut rest = same_advice;
        while let Some(first) = rest.first() {
            let pace = paces.of(first);
            let (batch, later) = rest.split_at(pace.batch(rest));
            rest = later;
            let pagemap = target.process.pagemap()?;
            let mut ready = Vec::with_capacity(batch.len());
            for action in batch {
                let still = recheck::still_as_found(&pagemap, target.frames, action)?;
                let changed =
                    still.iter().map(Action::gain).fold(action.gain(), Bytes::saturating_sub);
                left_alone.add(Reason::Changed, changed);
                ready.extend(still);
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
    let mut most = MAX_RANGES;
    while let Some(first) = batch.first() {
        let ranges: Vec<PageRange> = batch.iter().take(most).map(Action::range).collect();
        let began = Instant::now();
        let advised = process_madvise(process, &ranges, first.advice());
        let completed = completed_ranges(&ranges, advised.done);
        let worked = batch[..completed.max(1)].iter().map(Action::work).sum();
        pace.learn(worked, began.elapsed());
        asked.extend_from_slice(&batch[..completed]);
        batch = &batch[completed..];
        let Some(error) = advised.stopped.filter(|_| completed == 0) else { continue };
        // Before 5.18 an error hides how far the call came: only a call of one range tells whose
        // it is. From then on it is the first one's, which a call of one range confirms.
        if ranges.len() > 1 {
            most = 1;
            continue;
        }
        let reason = refusal(&error).ok_or_else(|| refused(process, error))?;
        left_alone.add(reason, first.gain());
        batch = &batch[1..];
    }
    Ok(())
}

/// The error of a process of which nothing may be asked.
fn refused(process: &Process, error: io::Error) -> Error {
    let pid = process.pid();
    let subject = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("process {pid} (run as root, outside of containers: CAP_SYS_NICE is needed)")
        }
        _ => format!("process {pid}"),
    };
    Error::os("advise", subject, error)
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

#[cfg(test)]
mod tests {
    use super::*;
    use recoup_sys::PageIdx;

    fn drops(pages_each: u64, count: u64) -> Vec<Action> {
        let range = |i| PageRange::starting_at(PageIdx(i * 1024), Pages(pages_each));
        (0..count).map(|i| Action::Drop(range(i))).collect()
    }

    #[test]
    fn a_call_is_made_as_long_as_the_pause_allows() {
        let mut pace = Pace::new(Duration::from_millis(2));
        let actions = drops(100, 2000);
        for _ in 0..20 {
            let worked = Pages(100 * pace.batch(&actions) as u64);
            pace.learn(worked, Duration::from_micros(worked.0));
        }
        assert_eq!(pace.batch(&actions), 10, "a millisecond at a microsecond a page");
        pace.learn(Pages(1000), Duration::from_millis(500));
        assert_eq!(pace.batch(&actions), 1, "a slow call is followed by the shortest one");
    }

    #[test]
    fn what_was_learnt_of_small_ranges_holds_for_large_ones() {
        let mut pace = Pace::new(Duration::from_millis(2));
        for _ in 0..20 {
            let worked = Pages(pace.batch(&drops(1, 2000)) as u64);
            pace.learn(worked, Duration::from_micros(worked.0));
        }
        assert_eq!(pace.batch(&drops(500, 10)), 2);
    }

    #[test]
    fn a_batch_never_has_more_ranges_than_the_kernel_takes() {
        let mut pace = Pace::new(Duration::from_secs(10));
        (0..60).for_each(|_| pace.learn(Pages(1), Duration::from_nanos(1)));
        assert_eq!(pace.batch(&drops(1, 5000)), MAX_RANGES);
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
