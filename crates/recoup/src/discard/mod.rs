//! Gives memory back so that the cgroup's charge falls now, not under memory pressure.
//!
//! When a part of a huge page is discarded, the kernel unmaps it but keeps the whole huge page
//! charged until memory is short. A [`Discarder`] sees to it that such pages are split: at once, or
//! no later than a bound that the caller sets. It needs no privilege.
//!
//! # What is guaranteed
//! - No byte changes outside of what was [`Released`].
//! - After a call with [`SplitPolicy::Sync`] none of its pages is still charged for want of a split.
//! - With [`SplitPolicy::Bounded`] never more than the bound is, of all pages given to this discarder,
//!   however many threads call: room is made before pages are given back, and where there is none to be
//!   made (others are giving back all that waits, or a piece is larger than the bound), their
//!   huge page is split before. Only of a huge page that somebody is splitting right then (another thread,
//!   or a helper that was offered it) what is given back can be added until that is over.
//! - Except: what the kernel refuses to split (huge pages that are locked, pinned, or shared with a forked
//!   child); and huge pages of which a part was unmapped without this discarder (by
//!   [`SplitPolicy::Deferred`], `munmap`, or before the discarder was made), of which four pages are
//!   tried when a call touches them.
//! - khugepaged may make a huge page of base pages behind our back (by default it looks every ten
//!   seconds): what is given back of that one within a second may wait for the next call that
//!   touches the same 2 MiB.
//! - An allocator may call it from its own hooks: where the book itself has just asked that allocator
//!   for memory, the call goes on without the book.
//!
//! # What it costs
//! On top of the discard: about 0.1 us where the 2 MiB around an end of the range are known, 0.6 us
//! where they have to be looked at, 120 to 280 us for each split. Nothing for whole huge pages.
//!
//! Linux 5.4 or later. Before 6.7 the kernel doesn't tell whole huge pages from others: then everything
//! that is given back in part counts as waiting, base pages too, until it was tried once, and what others
//! left behind or khugepaged makes goes unnoticed.

mod bell;
mod book;
mod edge;
#[cfg(all(test, loom))]
mod orders;
mod owned;
mod queue;
mod slots;
mod worker;

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use recoup_sys::blockset::BlockSet;
use recoup_sys::own;
use recoup_sys::pagemap::Pagemap;
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, PageIdx, PageRange};

pub use owned::{OwnedRange, table_reclaim};
pub use queue::SplitQueue;
pub use recoup_sys::own::{Backing, Released};
pub use recoup_sys::reserved::{Contents, HugePages, Reserved, TableReclaim, TablesFreed};
pub use recoup_sys::{Error, Result};
pub use worker::Worker;

use crate::Headroom;
use crate::inside::Inside;
use crate::sync::{Mutex, MutexGuard};

use bell::Bell;
use book::{Book, Due, Mapped, Seen};
use edge::Edge;

/// When huge pages of which a part was given back are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitPolicy {
    /// At once: nothing of the huge pages at hand stays charged.
    Sync,
    /// When more than this amount waits: holes may wait for the rest of their huge page to be given
    /// back as well, which is much cheaper than a split. Those with the most holes are split first.
    Bounded(Bytes),
    /// When the kernel likes to. Such a call is a plain `madvise(2)`, and leaves no trace.
    Deferred,
}

/// Gives memory of this process back, and knows which huge pages still wait for a split.
///
/// Share one among all threads. It keeps about 150 bytes for each 2 MiB of which a part was given
/// back, until all of it was, or [`Discarder::forget`].
#[derive(Debug)]
pub struct Discarder {
    book: Mutex<Book>,
    pagemap: Option<Pagemap>,
    /// The process that `pagemap` shows: not this one any more after a fork.
    pid: u32,
    orders: Vec<u8>,
    began: Instant,
    /// What wakes a worker.
    bell: Bell,
    /// What a helper splits, and what may wait before it gets something.
    helper: OnceLock<(Arc<SplitQueue>, Bytes)>,
}

impl Default for Discarder {
    fn default() -> Self {
        Self::new()
    }
}

impl Discarder {
    /// One that knows of nothing yet. Opens `/proc/self/pagemap` and looks which sizes of huge pages
    /// are enabled; without these, it splits more often than needed.
    #[must_use]
    pub fn new() -> Self {
        Self {
            book: Mutex::new(Book::default()),
            pagemap: Pagemap::of_self().ok(),
            pid: std::process::id(),
            orders: edge::enabled_orders(),
            began: Instant::now(),
            bell: Bell::new(),
            helper: OnceLock::new(),
        }
    }

    /// Gives pages back. They read as zero from then on.
    ///
    /// Shared memory is split by the kernel as it is given back, hugetlb memory never: for these, all
    /// policies are the same.
    ///
    /// # Errors
    /// Those of [`Released::discard`]; else `EINVAL` where a page of a huge page to be split is locked.
    /// Either way everything else was done.
    pub fn discard(&self, released: Released<'_>, policy: SplitPolicy) -> Result<()> {
        let nothing_to_note =
            policy == SplitPolicy::Deferred || released.backing() != Backing::Private;
        if nothing_to_note {
            return released.discard();
        }
        let Some(_inside) = Inside::enter() else {
            return self.discard_unnoted(released);
        };
        let pages = released.pages();
        let edges = edge::edges(pages).map(|edge| edge.map(|edge| (edge, self.note(edge))));
        let bound = match policy {
            SplitPolicy::Bounded(bound) => bound,
            SplitPolicy::Sync | SplitPolicy::Deferred => Bytes(u64::MAX),
        };
        // Before the pages are unmapped, so that the bound holds then, too.
        let others = self.split_beyond(bound).and(self.split_early(&edges, bound));
        let discarded = released.discard();
        let due = if policy == SplitPolicy::Sync { Due::Now } else { Due::Sometime };
        let mut split = Ok(());
        for (edge, seen) in edges.into_iter().flatten() {
            split = split.and(self.settle(edge, seen, due));
        }
        self.bell.ring(self.close(pages));
        // Whatever was refused on the way, everything else was done.
        discarded.and(split).and(self.split_beyond(bound)).and(others)
    }

    /// The most that is still charged for want of a split.
    #[must_use]
    pub fn waiting(&self) -> Bytes {
        let Some(_inside) = Inside::enter() else { return Bytes::ZERO };
        self.book().waiting().bytes()
    }

    /// Splits until no more than `bound` waits: for the owner's own loop, when it has time.
    ///
    /// # Errors
    /// `EINVAL` for locked memory: nobody can split that.
    pub fn split_waiting(&self, bound: Bytes) -> Result<()> {
        let Some(_inside) = Inside::enter() else { return Ok(()) };
        self.split_beyond(bound)
    }

    /// Lets a helper split what waits beyond `keep`: whoever calls [`SplitQueue::split_offered`] now and
    /// then, such as the companion. Bounds hold whether it does or not. Each call gives back the
    /// queue that the first one made.
    #[must_use]
    pub fn helped(&self, keep: Bytes) -> Arc<SplitQueue> {
        Arc::clone(&self.helper.get_or_init(|| (Arc::default(), keep)).0)
    }

    /// How much more this process can take, with what waits for a split counted in.
    ///
    /// # Errors
    /// Those of [`crate::headroom()`].
    pub fn headroom(&self) -> Result<Headroom> {
        crate::headroom(self.waiting())
    }

    /// Forgets what is known about 2 MiB blocks that lie in `range`: it is no longer mapped.
    pub fn forget(&self, range: PageRange) {
        let Some(_inside) = Inside::enter() else { return };
        self.book().forget(range.whole_blocks());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change leaves the book valid, whoever panicked while holding it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Gives pages back without the book: for a call from within another one, by an allocator from
    /// which the book itself just asked for memory.
    fn discard_unnoted(&self, released: Released<'_>) -> Result<()> {
        let edges = edge::edges(released.pages());
        released.discard()?;
        edges.into_iter().flatten().try_for_each(|edge| self.age_around(edge))
    }

    /// Notes what will be given back of a block at an end of the range, after a look at it if need be.
    fn note(&self, edge: Edge) -> Seen {
        let now = self.now();
        let seen = self.book().note(edge.released(), now);
        if seen == Seen::Known {
            return Seen::Known;
        }
        let mapping = self.mapping_of(edge.released().start);
        let mut book = self.book();
        match book.see(edge.block(), mapping, now) {
            Seen::Known => book.note(edge.released(), now),
            Seen::Unsure => Seen::Unsure,
        }
    }

    /// After a part of a block was given back: splits it, if that is due.
    fn settle(&self, edge: Edge, seen: Seen, due: Due) -> Result<()> {
        if seen == Seen::Unsure {
            return self.age_around(edge);
        }
        // The lock is let go before the split takes it again.
        let due = self.book().gave_back(edge.block(), due);
        if due == Due::Sometime {
            return Ok(());
        }
        // What a helper has not split yet is not left to it.
        let helped = self.helper.get().map_or(Ok(()), |_| self.age_around(edge));
        self.split(edge.block()).and(helped)
    }

    /// What is cut may be a part of a huge page that is mapped by pages: a split costs little if not.
    fn age_around(&self, edge: Edge) -> Result<()> {
        edge.neighbours(&self.orders).into_iter().try_for_each(own::age)
    }

    /// After the discard of a range: forgets its whole blocks, and tells how much waits.
    fn close(&self, pages: PageRange) -> Bytes {
        let mut book = self.book();
        book.forget(pages.whole_blocks());
        self.offer(&mut book);
        book.waiting().bytes()
    }

    /// Strikes off what the helper did, and offers it more.
    fn offer(&self, book: &mut Book) {
        let Some((queue, keep)) = self.helper.get() else { return };
        queue.slots.collect(|holes| book.end_split(&holes));
        while book.waiting_unoffered().bytes() > *keep {
            let Some((block, holes)) = book.begin_fullest() else { return };
            if !queue.slots.offer(block, &holes) {
                book.end_split(&holes);
                book.keep_holes(block, &holes);
                return;
            }
        }
    }

    /// How the 2 MiB around a page are mapped.
    fn mapping_of(&self, page: PageIdx) -> Mapped {
        let pagemap = self.pagemap.as_ref().filter(|_| std::process::id() == self.pid);
        match pagemap.map(|pagemap| pagemap.is_mapped_huge(page)) {
            Some(Ok(true)) => Mapped::Whole,
            Some(Ok(false)) => Mapped::ByPages,
            Some(Err(_)) | None => Mapped::Unknown,
        }
    }

    fn split_beyond(&self, bound: Bytes) -> Result<()> {
        let mut result = Ok(());
        loop {
            let (block, holes) = {
                let mut book = self.book();
                if book.waiting().bytes() <= bound {
                    return result;
                }
                match book.begin_fullest().or_else(|| self.take_back(&mut book)) {
                    Some(next) => next,
                    None => return result,
                }
            };
            result = result.and(self.split_now(block, &holes));
        }
    }

    /// Splits what is cut at these ends before that is given back, if it would be too much with all else
    /// that waits and that nobody can split now: by then others may be giving it back, too.
    fn split_early(&self, edges: &[Option<(Edge, Seen)>; 2], bound: Bytes) -> Result<()> {
        let mut result = Ok(());
        for &(edge, _) in edges.iter().flatten() {
            let holes = self.book().begin_early_split(edge.block(), bound);
            if let Some(holes) = holes {
                let aged = edge.age_uncut(&holes);
                self.book().end_split(&holes);
                let refused = |e| Error::os("split", edge.block().to_string(), e);
                result = result.and(aged.map_err(refused));
            }
        }
        result
    }

    /// What the helper has not done yet, if more than the bound waits.
    fn take_back(&self, book: &mut Book) -> Option<(PageIdx, BlockSet)> {
        let (queue, _) = self.helper.get()?;
        queue.slots.collect(|holes| book.end_split(&holes));
        queue.slots.take_back()
    }

    /// Splits a block's huge page, if it has holes.
    fn split(&self, block: PageIdx) -> Result<()> {
        let holes = self.book().begin_split(block);
        holes.map_or(Ok(()), |holes| self.split_now(block, &holes))
    }

    /// Splits a huge page with these holes by ageing one page that it still maps.
    fn split_now(&self, block: PageIdx, holes: &BlockSet) -> Result<()> {
        if self.mapping_of(block) == Mapped::Whole {
            // khugepaged has made a new huge page of what was left and what was written since.
            let mut book = self.book();
            book.end_split(holes);
            book.forget(PageRange::starting_at(block, BLOCK.whole_pages()));
            return Ok(());
        }
        // A page that was given back and written since is a base page.
        let aged = edge::age_one(block, |index| !holes.has(index));
        self.book().end_split(holes);
        aged.map_err(|e| Error::os("split", block.to_string(), e))
    }
}
