//! The huge page that a frame belongs to.

use recoup_sys::kpage::{Flags, Frames};
use recoup_sys::units::PMD_ORDER;
use recoup_sys::{Pages, Pfn, Result};

/// A compound page: `1 << order` frames from a naturally aligned head on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folio {
    /// Its first frame.
    pub head: Pfn,
    /// Binary logarithm of its frames.
    pub order: u8,
    /// The flags of its head, which speak for all of it.
    pub flags: Flags,
}

impl Folio {
    /// Finds the folio of order 1 to 9 that `frame` is part of; nothing for a base page or a larger
    /// page. Costs two or three reads for a PMD-sized one, up to twenty for a smaller one.
    ///
    /// # Errors
    /// Those of reading flags.
    pub fn of(frame: Pfn, frames: &impl Frames) -> Result<Option<Self>> {
        let flags = frames.flags(frame)?;
        if !flags.has(Flags::COMPOUND_HEAD | Flags::COMPOUND_TAIL) {
            return Ok(None);
        }
        let Some((head, flags)) = head_of(frame, flags, frames)? else {
            return Ok(None);
        };
        // A folio larger than half its alignment has a tail in the middle: ask the largest first.
        for order in (1..=PMD_ORDER).rev() {
            let middle = head + Pages::of_order(order - 1);
            if head.align_down(order) == head && is_tail_of(head, middle, frames)? {
                return Ok(Some(Self { head, order, flags }));
            }
        }
        Ok(None)
    }

    /// Whether it is anonymous memory that may be split: no hugetlb page, no zero page.
    #[must_use]
    pub fn is_anonymous_thp(&self) -> bool {
        self.flags.has(Flags::ANON) && !self.flags.has(Flags::HUGE | Flags::ZERO_PAGE)
    }

    /// Its frames, as an amount.
    #[must_use]
    pub fn size(&self) -> Pages {
        Pages::of_order(self.order)
    }
}

/// The head before a tail is the nearest one: all frames between are tails too.
fn head_of(frame: Pfn, flags: Flags, frames: &impl Frames) -> Result<Option<(Pfn, Flags)>> {
    if flags.has(Flags::COMPOUND_HEAD) {
        return Ok(Some((frame, flags)));
    }
    for order in 1..=PMD_ORDER {
        let candidate = frame.align_down(order);
        let flags = frames.flags(candidate)?;
        if flags.has(Flags::COMPOUND_HEAD) {
            return Ok(Some((candidate, flags)));
        }
    }
    Ok(None)
}

/// Whether `middle` belongs to the folio that starts at `head`: it is a tail, and no other head
/// lies between them.
fn is_tail_of(head: Pfn, middle: Pfn, frames: &impl Frames) -> Result<bool> {
    let flags = frames.flags(middle)?;
    if !flags.has(Flags::COMPOUND_TAIL) {
        return Ok(false);
    }
    Ok(head_of(middle, flags, frames)?.is_some_and(|(found, _)| found == head))
}
