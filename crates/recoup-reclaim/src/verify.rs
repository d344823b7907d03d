//! Looks again at exactly what was acted on: what came back is measured, never concluded from a
//! return code.

use recoup_sys::kpage::Frames;
use recoup_sys::pagemap::Word;
use recoup_sys::units::PAGES_PER_BLOCK;
use recoup_sys::{Bytes, Error, PageRange, Pages, Result};

use crate::act::Target;
use crate::outcome::{LeftAlone, Reason, Stuck};
use crate::plan::Action;
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
    for action in asked {
        match action {
            Action::Split(hole) => match split_result(target, hole)? {
                None => {
                    recovered.thp_holes += hole.unmapped.bytes();
                    recovered.thp_holes_count += 1;
                }
                Some(reason) => left_alone.add(reason, action.gain()),
            },
            Action::Drop(range) => {
                recovered.lazyfree += drop_result(target, *range, left_alone)?;
            }
        }
    }
    Ok(recovered)
}

/// Nothing if the huge page was split, else why it wasn't.
fn split_result<F: Frames>(target: &Target<'_, F>, hole: &Hole) -> Result<Option<Reason>> {
    let word = target.pagemap.word(hole.mapped_page)?.ok_or(Error::AddressSpaceGone)?;
    if word.frame() != Some(hole.frame) {
        return Ok(Some(Reason::Changed));
    }
    let folio = Folio::of(hole.frame, target.frames)?;
    let still_whole = folio.is_some_and(|folio| folio.order >= hole.order);
    Ok(still_whole.then_some(Reason::Busy))
}

/// What of a lazily freed range is gone.
fn drop_result<F: Frames>(
    target: &Target<'_, F>,
    range: PageRange,
    left_alone: &mut LeftAlone,
) -> Result<Bytes> {
    let mut words = [0; PAGES_PER_BLOCK];
    let length = usize::try_from(range.length().0).unwrap_or(PAGES_PER_BLOCK);
    let words = &mut words[..length];
    if target.pagemap.read(range.start, words)? < words.len() {
        return Err(Error::AddressSpaceGone);
    }
    let page = Pages(1).bytes();
    let mut gone = Bytes::ZERO;
    for word in words.iter().map(|&word| Word(word)) {
        match word.frame() {
            Some(frame) if is_lazily_freed(frame, target.frames)? => {
                left_alone.add(Reason::Busy, page);
            }
            Some(_) => left_alone.add(Reason::InUseAgain, page),
            None if word.has(Word::SWAPPED) => left_alone.add(Reason::InUseAgain, page),
            None => gone += page,
        }
    }
    Ok(gone)
}
