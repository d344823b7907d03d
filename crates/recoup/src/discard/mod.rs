//! Gives memory back so that the cgroup's charge falls now, not under memory pressure.
//!
//! When a part of a huge page is discarded, the kernel unmaps it but keeps the whole huge page
//! charged until memory is short. A [`Discarder`] sees to it that such pages are split: at once, or
//! no later than a bound that the caller sets. It needs no privilege.
//!
//! # What is guaranteed
//! - No byte changes outside of what was [`Released`].
//! - After a call with [`SplitPolicy::Sync`] none of its pages, and after one with
//!   [`SplitPolicy::Bounded`] no more than the bound of all pages given to this discarder, is still
//!   charged for want of a split, except where the kernel refuses: huge pages that are locked,
//!   pinned, or shared with a forked child.
//! - khugepaged may make a huge page of base pages behind our back (by default it looks every ten
//!   seconds): what is given back of that one within a second may wait for the next call that
//!   touches the same 2 MiB.
//!
//! # What it costs
//! On top of the discard: about 0.1 us where the 2 MiB around an end of the range are known, 0.6 us
//! where they have to be looked at, 120 to 280 us for each split. Nothing for whole huge pages.
//!
//! Linux 5.4 or later. Before 6.7 a whole huge page cannot be recognised without privileges: then
//! [`SplitPolicy::Bounded`] splits at once.

mod book;
mod edge;
mod owned;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use recoup_sys::own::{self, Backing};
use recoup_sys::pagemap::Pagemap;
use recoup_sys::units::BLOCK;
use recoup_sys::{Bytes, PageIdx, PageRange};

pub use owned::{OwnedRange, table_reclaim};
pub use recoup_sys::own::Released;
pub use recoup_sys::{Error, Result};
pub use worker::Worker;

use crate::Headroom;

use book::{Book, Mapped, Progress, Seen};
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
    /// Where a worker sleeps, and what may wait before it is woken.
    wake: Condvar,
    wake_beyond: AtomicU64,
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
            book: Mutex::default(),
            pagemap: Pagemap::of_self().ok(),
            pid: std::process::id(),
            orders: edge::enabled_orders(),
            began: Instant::now(),
            wake: Condvar::new(),
            wake_beyond: AtomicU64::new(u64::MAX),
        }
    }

    /// Gives pages back. They read as zero from then on.
    ///
    /// Shared memory is split by the kernel as it is given back, hugetlb memory never: for these, all
    /// policies are the same.
    ///
    /// # Errors
    /// Those of [`Released::discard`]; `EINVAL` where a neighbouring page is locked, after the pages
    /// were given back.
    pub fn discard(&self, released: Released<'_>, policy: SplitPolicy) -> Result<()> {
        if policy == SplitPolicy::Deferred || released.backing() != Backing::Private {
            return released.discard();
        }
        let pages = released.pages();
        let edges = edge::edges(pages);
        let (known, waiting) = self.note_all(edges);
        if let SplitPolicy::Bounded(bound) = policy
            && waiting > bound
        {
            // Before the pages are unmapped, so that the bound holds at every moment.
            let own = edges.map(|edge| edge.map_or(PageIdx::default(), Edge::block));
            self.split_beyond(bound, &own)?;
        }
        released.discard()?;
        for edge in edges.into_iter().zip(known).filter_map(Known::unsure) {
            // It may be a part of a huge page that is mapped by pages: a split costs little if not.
            edge.neighbours(&self.orders).try_for_each(own::age)?;
        }
        let waiting = self.close(pages, edges, known);
        match policy {
            SplitPolicy::Sync => edges.iter().flatten().try_for_each(|e| self.split(e.block())),
            SplitPolicy::Bounded(bound) if waiting > bound => self.split_beyond(bound, &[]),
            _ => {
                if waiting.0 > self.wake_beyond.load(Ordering::Relaxed) {
                    self.wake.notify_one();
                }
                Ok(())
            }
        }
    }

    /// The most that is still charged for want of a split.
    #[must_use]
    pub fn waiting(&self) -> Bytes {
        self.book().waiting().bytes()
    }

    /// Splits until no more than `bound` waits: for the owner's own loop, when it has time.
    ///
    /// # Errors
    /// `EINVAL` for locked memory: nobody can split that.
    pub fn split_waiting(&self, bound: Bytes) -> Result<()> {
        self.split_beyond(bound, &[])
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
        self.book().forget(edge::whole_blocks(range));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change leaves the book valid, whoever panicked while holding it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes what will be given back of the blocks at the ends of a range. Tells how much waits then.
    fn note_all(&self, edges: [Option<Edge>; 2]) -> ([Known; 2], Bytes) {
        let now = self.now();
        let mut book = self.book();
        let noted = edges
            .map(|edge| edge.map_or(Some(Progress::Part), |edge| book.note(edge.released(), now)));
        let waiting = book.waiting().bytes();
        drop(book);
        if let [Some(one), Some(other)] = noted {
            return ([Known::Noted(one), Known::Noted(other)], waiting);
        }
        let known = [0, 1].map(|which| match (noted[which], edges[which]) {
            (None, Some(edge)) => self.look_and_note(edge, now),
            (noted, _) => Known::Noted(noted.unwrap_or(Progress::Part)),
        });
        (known, self.waiting())
    }

    /// Finds out what the block at an end of the range is, and notes what will be given back of it.
    fn look_and_note(&self, edge: Edge, now: Duration) -> Known {
        let Some(mapping) = self.mapping_of(edge.released().start) else { return Known::Unsure };
        let mut book = self.book();
        if book.see(edge.block(), mapping, now) == Seen::Unsure {
            return Known::Unsure;
        }
        book.note(edge.released(), now).map_or(Known::Unsure, Known::Noted)
    }

    /// After the discard of a range: forgets huge pages of which nothing is left, and tells how much
    /// waits.
    fn close(&self, pages: PageRange, edges: [Option<Edge>; 2], known: [Known; 2]) -> Bytes {
        let mut book = self.book();
        book.forget(edge::whole_blocks(pages));
        for (edge, known) in edges.into_iter().zip(known) {
            if let (Some(edge), Known::Noted(Progress::All)) = (edge, known) {
                book.forget(PageRange::starting_at(edge.block(), BLOCK.whole_pages()));
            }
        }
        book.waiting().bytes()
    }

    /// How the 2 MiB around a page are mapped, where the kernel tells.
    fn mapping_of(&self, page: PageIdx) -> Option<Mapped> {
        let pagemap = self.pagemap.as_ref().filter(|_| std::process::id() == self.pid)?;
        let whole = pagemap.is_mapped_huge(page).ok()?;
        Some(if whole { Mapped::Whole } else { Mapped::ByPages })
    }

    fn split_beyond(&self, bound: Bytes, spared: &[PageIdx]) -> Result<()> {
        loop {
            let next = {
                let book = self.book();
                if book.waiting().bytes() <= bound { None } else { book.fullest(spared) }
            };
            match next {
                Some(block) => self.split(block)?,
                None => return Ok(()),
            }
        }
    }

    /// Splits a block's huge page by ageing one page that it still maps.
    fn split(&self, block: PageIdx) -> Result<()> {
        let Some(holes) = self.book().begin_split(block) else { return Ok(()) };
        // A page that was given back and written since is a base page.
        let page = edge::mapped_page(block, |index| !holes.has(index));
        // The kernel passes a huge page over in silence that something else holds for a moment, so a
        // second time: of a base page that costs nothing much.
        let result = page.map_or(Ok(()), |page| own::age(page).and_then(|()| own::age(page)));
        self.book().end_split(&holes);
        result
    }
}

/// What is known about the block at an end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The book has it.
    Noted(Progress),
    /// Nothing.
    Unsure,
}

impl Known {
    /// The edge, if nothing is known about its block.
    fn unsure((edge, known): (Option<Edge>, Self)) -> Option<Edge> {
        edge.filter(|_| known == Self::Unsure)
    }
}
