//! Looks again at exactly what was acted on: what came back is measured, never concluded from a
//! return code.

use recoup_sys::kpage::Frames;
use recoup_sys::pagemap::{Pagemap, Word};
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{Bytes, Error, PageRange, Pages, Result};

use crate::act::Target;
use crate::outcome::{LeftAlone, Reason, Stuck};
use crate::plan::Action;
use crate::recheck;
use crate::scan::folio::Folio;
use crate::scan::holes::Hole;
use crate::scan::lazyfree::is_lazily_freed;

/// Looks at what the actions were about and returns what came back. The rest goes to `left_alone`.
///
/// # Errors
/// Those of reading; [`Error::is_gone`] once the address space is gone.
pub fn verify<F: Frames>(
    target: &Target<'_, F>,
    asked: &[Action],
    left_alone: &mut LeftAlone,
) -> Result<Stuck> {
    let mut recovered = Stuck::default();
    if asked.is_empty() {
        return Ok(recovered);
    }
    let pagemap = target.process.pagemap()?;
    for action in asked {
        match action {
            Action::Split(hole) => match split_result(&pagemap, target.frames, hole)? {
                None => {
                    recovered.thp_holes += hole.unmapped.bytes();
                    recovered.thp_holes_count += 1;
                }
                Some(reason) => left_alone.add(reason, action.gain()),
            },
            Action::Drop(range) => {
                recovered.lazyfree += drop_result(&pagemap, target.frames, *range, left_alone)?;
            }
        }
    }
    Ok(recovered)
}

/// Nothing if the huge page was split, else why it wasn't.
fn split_result(pagemap: &Pagemap, frames: &impl Frames, hole: &Hole) -> Result<Option<Reason>> {
    let word = pagemap.word(hole.mapped_page)?.ok_or(Error::AddressSpaceGone)?;
    if word.frame() != Some(hole.frame) {
        return Ok(Some(Reason::Changed));
    }
    let folio = Folio::of(hole.frame, frames)?;
    let still_whole = folio.is_some_and(|folio| folio.order >= hole.order);
    Ok(still_whole.then_some(Reason::Busy))
}

/// What of a lazily freed range is gone.
fn drop_result(
    pagemap: &Pagemap,
    frames: &impl Frames,
    range: PageRange,
    left_alone: &mut LeftAlone,
) -> Result<Bytes> {
    let mut words = [0; PAGES_PER_BLOCK];
    let words = recheck::read(pagemap, range, &mut words)?;
    let page = Pages(1).bytes();
    let mut gone = Bytes::ZERO;
    for word in words.iter().map(|&word| Word(word)) {
        if is_lazily_freed(word, frames)? {
            left_alone.add(Reason::Busy, page);
        } else if word.has(Word::PRESENT | Word::SWAPPED) {
            left_alone.add(Reason::InUseAgain, page);
        } else {
            gone += page;
        }
    }
    Ok(gone)
}
