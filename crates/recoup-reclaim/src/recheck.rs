//! Looks at what is about to be acted on, right before it is: a huge page that is whole by now must
//! not be split, and memory in use by now must not be paged out.

use recoup_sys::kpage::Frames;
use recoup_sys::pagemap::{Pagemap, Word};
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{Error, PageRange, Pages, Result};

use crate::plan::Action;
use crate::scan::holes::Hole;
use crate::scan::lazyfree::{MadeOf, is_lazily_freed, lazily_freed};

/// What of an action is still to be done: all, nothing, or the parts of a lazily freed range that
/// still are.
///
/// # Errors
/// Those of reading; [`Error::AddressSpaceGone`] once that is so.
pub fn still_as_found(
    pagemap: &Pagemap,
    frames: &impl Frames,
    action: &Action,
) -> Result<Vec<Action>> {
    match action {
        Action::Split(hole) => {
            Ok(still_has_hole(pagemap, hole)?.then_some(*action).into_iter().collect())
        }
        Action::Drop(range) => still_lazy(pagemap, frames, *range),
    }
}

fn still_has_hole(pagemap: &Pagemap, hole: &Hole) -> Result<bool> {
    let range = hole.range();
    let mut words = [0; PAGES_PER_BLOCK];
    let words = read(pagemap, range, &mut words)?;
    let head = hole.frame.align_down(hole.order);
    let mapped =
        |(index, &word): (usize, &u64)| Word(word).frame() == Some(head + Pages(index as u64));
    let page = hole.mapped_page - range.start;
    let page_is_there = words.iter().enumerate().any(|(i, w)| i as u64 == page.0 && mapped((i, w)));
    let all_is_there = words.iter().enumerate().all(mapped);
    Ok(page_is_there && !all_is_there)
}

/// The stretches of a range, of at most a block, that are still lazily freed. For a huge page that
/// is mapped in one piece, its first page speaks.
fn still_lazy(pagemap: &Pagemap, frames: &impl Frames, range: PageRange) -> Result<Vec<Action>> {
    let mut words = [0; PAGES_PER_BLOCK];
    let words = read(pagemap, range, &mut words)?;
    if let [first, .., last] = *words
        && lazily_freed(Word(first), frames)? == Some(MadeOf::HugePages)
        && last == first + words.len() as u64 - 1
    {
        return Ok(vec![Action::Drop(range)]);
    }
    let mut stretches: Vec<PageRange> = Vec::new();
    for (index, &word) in words.iter().enumerate() {
        if !is_lazily_freed(Word(word), frames)? {
            continue;
        }
        let page = range.start + Pages(index as u64);
        match stretches.last_mut() {
            Some(last) if last.end == page => last.end = page + Pages(1),
            _ => stretches.push(PageRange::starting_at(page, Pages(1))),
        }
    }
    Ok(stretches.into_iter().map(Action::Drop).collect())
}

/// Reads the words of a range of at most a block.
pub(crate) fn read<'a>(
    pagemap: &Pagemap,
    range: PageRange,
    buffer: &'a mut [u64; PAGES_PER_BLOCK],
) -> Result<&'a [u64]> {
    let length = usize::try_from(range.length().0).unwrap_or(PAGES_PER_BLOCK);
    let words = &mut buffer[..length];
    if pagemap.read(range.start, words)? < words.len() {
        return Err(Error::AddressSpaceGone);
    }
    Ok(words)
}
