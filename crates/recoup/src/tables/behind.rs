//! What is done while a fence is up, and what of it is left.

use std::time::Instant;

use recoup_sys::pagemap::Run;
use recoup_sys::userfault::Fence;
use recoup_sys::{Errno, PageIdx, PageRange, Pages};

use super::mate::Mate;
use super::pace::Pace;

/// One who frees behind a fence.
pub(super) struct Behind<'a> {
    pub(super) pace: &'a mut Pace,
    pub(super) runs: &'a mut [Run],
    /// Ranges that the kernel refused.
    pub(super) left_alone: u64,
}

impl Behind<'_> {
    /// Frees what is left until the fence's time is over, half of it by a mate; returns what is left then.
    pub(super) fn free(&mut self, fence: &mut Fence<'_>, left: Left, mate: Option<&Mate>) -> Left {
        let until = Instant::now() + self.pace.budget();
        let mate = mate.filter(|_| fence.can_be_shared());
        let mut left = if mate.is_some() { left.shared_out() } else { left };
        if let Some(mate) = mate.filter(|_| !left.theirs.is_empty()) {
            mate.free(fence, left.theirs, until);
        }
        left.own.start = self.free_area(|part, runs| fence.free_empty(part, runs), left.own, until);
        if let Some(done) = mate.and_then(Mate::collect) {
            left.theirs.start = done.until;
            self.left_alone += done.left_alone;
        }
        left
    }

    /// Frees from the start of an area on, portion by portion, until the fence's time is over; returns how
    /// far that was.
    pub(super) fn free_area(
        &mut self,
        mut free_empty: impl FnMut(PageRange, &mut [Run]) -> Result<PageIdx, Errno>,
        area: PageRange,
        until: Instant,
    ) -> PageIdx {
        let mut at = area.start;
        loop {
            let part = PageRange { start: at, end: area.end.min(at + self.pace.portion()) };
            let went = Instant::now();
            let freed = free_empty(part, self.runs);
            self.pace.took(went.elapsed());
            at = freed.unwrap_or_else(|_| {
                self.left_alone += 1;
                part.end
            });
            if at >= area.end || Instant::now() >= until {
                return at;
            }
        }
    }
}

/// What is left to free: for oneself, and for a mate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) own: PageRange,
    pub(super) theirs: PageRange,
}

impl Left {
    /// Less is not worth waking a mate for: 1 GiB of addresses, at most a millisecond's work.
    const LEAST: Pages = Pages(1 << 18);

    /// All of it for oneself.
    pub(super) fn of(slice: PageRange) -> Self {
        Self { own: slice, theirs: PageRange { start: slice.end, end: slice.end } }
    }

    pub(super) fn is_empty(self) -> bool {
        self.own.is_empty() && self.theirs.is_empty()
    }

    /// Where it begins.
    pub(super) fn start(self) -> PageIdx {
        if self.own.is_empty() { self.theirs.start } else { self.own.start }
    }

    /// The same, so that both have something to do.
    pub(super) fn shared_out(self) -> Self {
        if !self.own.is_empty() && !self.theirs.is_empty() {
            return self;
        }
        let all = if self.own.is_empty() { self.theirs } else { self.own };
        let half = Pages(all.length().0 / 2);
        if half < Self::LEAST {
            return Self::of(all);
        }
        let middle = (all.start + half).block_start();
        Self { own: PageRange { end: middle, ..all }, theirs: PageRange { start: middle, ..all } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(start: u64, end: u64) -> PageRange {
        PageRange { start: PageIdx(start * 512), end: PageIdx(end * 512) }
    }

    #[test]
    fn what_is_shared_out_is_whole_blocks_and_all_of_it() {
        let left = Left::of(blocks(1001, 4000)).shared_out();
        assert_eq!(left, Left { own: blocks(1001, 2500), theirs: blocks(2500, 4000) });
        assert_eq!(left.shared_out(), left);
        assert_eq!(left.start(), PageIdx(1001 * 512));
    }

    #[test]
    fn who_is_done_first_takes_half_of_what_the_other_has_left() {
        let mut left = Left { own: blocks(0, 1100), theirs: blocks(2000, 4200) };
        left.own.start = left.own.end;
        assert_eq!(left.start(), PageIdx(2000 * 512));
        let shared = left.shared_out();
        assert_eq!(shared, Left { own: blocks(2000, 3100), theirs: blocks(3100, 4200) });
    }

    #[test]
    fn little_is_done_alone() {
        let left = Left { own: blocks(7, 7), theirs: blocks(0, 1023) };
        assert_eq!(left.shared_out(), Left::of(blocks(0, 1023)));
        assert!(Left::of(blocks(7, 7)).is_empty() && !left.is_empty());
        // Done, it begins where it ended.
        let mut alone = Left::of(blocks(0, 1023));
        alone.own.start = alone.own.end;
        assert_eq!(alone.start(), PageIdx(1023 * 512));
    }
}
