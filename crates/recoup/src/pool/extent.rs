//! Memory of an owner.

use std::fmt;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use recoup_core::ChunkRun;
use recoup_sys::slices::{SMALLEST, slices};
use recoup_sys::{PageRange, own};

use super::desks::PagesAt;
use super::mapping::Span;
use super::owner::Holder;
use super::source::{Kind, Metadata};

/// Memory that belongs to one owner, at an address that stays what it is: a slice of bytes. Dropping
/// it frees it.
///
/// It holds zeroes, or what this owner last had there. A forked child does not have it (unless its
/// [source](super::Thp::inherited) says so), and must not touch it: nothing is at these addresses there
/// until the child maps something itself, which may come to lie there.
pub struct Extent {
    holder: Arc<Holder>,
    span: Span,
    place: Place,
}

/// Where an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Chunks(ChunkRun),
    Pages(PagesAt),
}

impl Extent {
    #[inline]
    pub(super) fn new(holder: Arc<Holder>, span: Span, place: Place) -> Self {
        Self { holder, span, place }
    }

    /// Its first byte. Valid until the extent is dropped.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.span.start()
    }

    /// Its pages.
    #[must_use]
    pub fn page_range(&self) -> PageRange {
        self.span.pages()
    }

    #[cfg(feature = "vm")]
    pub(super) fn place(&self) -> (&Holder, Place) {
        (&self.holder, self.place)
    }

    /// Puts memory behind all of it, by so many threads, in slices of at least 32 MiB. Changes no byte. What
    /// has no [struct pages](super::source::Metadata::None) has its memory already, or only by a touch: nothing is
    /// done then.
    ///
    /// # Errors
    /// `EFAULT` or `ENOMEM` for want of memory; `EINVAL` before Linux 5.14. Some of it may have memory
    /// then.
    pub fn prefault(&self, workers: NonZeroUsize) -> recoup_sys::Result<()> {
        if self.kind().metadata == Metadata::None {
            return Ok(());
        }
        let queue = std::sync::Mutex::new(slices(self.page_range(), SMALLEST));
        let next = || queue.lock().ok().and_then(|mut slices| slices.next());
        let work = || std::iter::from_fn(next).try_for_each(own::populate);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers.get()).map(|_| scope.spawn(work)).collect();
            let first = work();
            let rest = others.into_iter().filter_map(|worker| worker.join().ok());
            rest.fold(first, recoup_sys::Result::and)
        })
    }
}

impl Extent {
    /// Which kind of memory it is.
    pub(super) fn kind(&self) -> Kind {
        self.holder.zone().kind()
    }

    /// Gives back what is behind it. It reads as zero then.
    pub(super) fn discard(&mut self) -> recoup_sys::Result<()> {
        let zone = self.holder.zone();
        let chunk = match self.place {
            Place::Chunks(run) => run.superchunk(),
            Place::Pages(at) => at.chunk.superchunk(),
        };
        let backing = zone.backing(chunk);
        zone.mapping().discard_span(&mut self.span, backing)
    }
}

impl Deref for Extent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.span.as_slice()
    }
}

impl DerefMut for Extent {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.as_mut_slice()
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({} of {})", self.page_range(), self.holder.id())
    }
}

impl Drop for Extent {
    #[inline]
    fn drop(&mut self) {
        let span = mem::replace(&mut self.span, Span::EMPTY);
        self.holder.release(span, self.place);
    }
}
