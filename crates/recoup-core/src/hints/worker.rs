//! When hints are followed, and how.

use core::mem;
use core::ops::Range;

use super::{BATCH, Extent, Fate, FreeMemory, HintMap, Return, Word};

/// How eager a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Binary logarithm of the base pages in an extent that is given back.
    pub order: u8,
    /// How many extents one request to the transport names: from 1 to the batch. An allocation may
    /// have to wait for one request.
    pub per_request: usize,
    /// How many hints have to gather before they are followed at once.
    pub threshold: usize,
    /// How long they wait at most if they are fewer, in nanoseconds.
    pub deadline_ns: u64,
}

/// When a worker has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// When somebody frees memory.
    Idle,
    /// At this time in nanoseconds, if not enough gathers before.
    At(u64),
    /// Now: call [`Worker::round`].
    Now,
}

/// What workers have done so far, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Hints taken.
    pub looked_at: u64,
    /// Of these, not free any more, or given back already.
    pub in_use: u64,
    /// Isolated, and taken by an allocation before they were sent.
    pub stolen: u64,
    /// Given back.
    pub returned: u64,
    /// Not given back, as the transport failed.
    pub failed: u64,
}

/// What one round has done, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Isolated.
    pub isolated: usize,
    /// Given back.
    pub returned: usize,
}

/// Follows hints, `N` at a time. It has a thread of its own, or a turn in somebody else's.
#[derive(Clone, Debug)]
pub struct Worker<const N: usize = BATCH> {
    settings: Settings,
    /// How many hints are left of those that were there when it last became due.
    left: usize,
    /// Since when there have been hints that it was not yet due for.
    since_ns: Option<u64>,
    /// Where the last round ended, so that all memory gets its turn.
    cursor: usize,
    stats: Stats,
}

impl<const N: usize> Worker<N> {
    /// A worker that has done nothing yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        let stats = Stats { looked_at: 0, in_use: 0, stolen: 0, returned: 0, failed: 0 };
        Self { settings, left: 0, since_ns: None, cursor: 0, stats }
    }

    /// What it has done so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Says when there is something to do, given how many hints wait and a clock that does not go
    /// back. Once they are enough, or the first of them has waited for the deadline, all that wait
    /// at that moment are followed; later ones have a deadline of their own.
    pub fn due(&mut self, pending: usize, now_ns: u64) -> Due {
        if pending == 0 {
            (self.left, self.since_ns) = (0, None);
            return Due::Idle;
        }
        if self.left == 0 {
            let since = *self.since_ns.get_or_insert(now_ns);
            let deadline = since.saturating_add(self.settings.deadline_ns);
            if pending < self.settings.threshold && now_ns < deadline {
                return Due::At(deadline);
            }
            (self.left, self.since_ns) = (pending, None);
        }
        Due::Now
    }

    /// Isolates at most a batch of hinted extents that are still free, gives them back, and puts
    /// them back into the book.
    ///
    /// # Errors
    /// The transport's first error, which ends the round. What it was asked for is kept and not
    /// hinted again; the rest of the batch is.
    pub fn round<S: AsRef<[Word]>, M: FreeMemory, R: Return>(
        &mut self,
        hints: &HintMap<S>,
        memory: &mut M,
        transport: &mut R,
    ) -> Result<Round, R::Error> {
        let mut batch = Batch::<M, N>::new(memory);
        self.fill(&mut batch, hints);
        let mut round = Round { isolated: batch.waiting.len(), returned: 0 };
        loop {
            let stolen = batch.send(self.settings.per_request.max(1));
            self.stats.stolen += stolen;
            let request = batch.request();
            if request.is_empty() {
                return Ok(round);
            }
            let extents = request.len();
            if let Err(error) = transport.give_back(request) {
                self.stats.failed += extents as u64;
                batch.give_up(hints);
                return Err(error);
            }
            batch.settle(Fate::Returned);
            self.stats.returned += extents as u64;
            round.returned += extents;
        }
    }

    /// Follows hints until the batch is full, or none is left of those that are due.
    fn fill<S: AsRef<[Word]>, M: FreeMemory>(
        &mut self,
        batch: &mut Batch<'_, M, N>,
        hints: &HintMap<S>,
    ) {
        while batch.waiting.end < N {
            let hint = hints.take(self.cursor).or_else(|| hints.take(0));
            let Some(index) = hint else {
                self.left = 0;
                return;
            };
            self.cursor = index + 1;
            self.left = self.left.saturating_sub(1);
            self.stats.looked_at += 1;
            let extent = Extent { index: index as u64, order: self.settings.order };
            if !batch.isolate(extent) {
                self.stats.in_use += 1;
            }
        }
    }
}

/// Extents that a round has isolated. Whatever ends the round, they are put back.
struct Batch<'a, M: FreeMemory, const N: usize> {
    memory: &'a mut M,
    extents: [Extent; N],
    /// What the request under way names.
    sent: Range<usize>,
    /// What no request has named yet. All before it is settled, but for what is sent.
    waiting: Range<usize>,
}

impl<'a, M: FreeMemory, const N: usize> Batch<'a, M, N> {
    fn new(memory: &'a mut M) -> Self {
        Self { memory, extents: [Extent::default(); N], sent: 0..0, waiting: 0..0 }
    }

    /// Isolates one more extent; there is room for it.
    fn isolate(&mut self, extent: Extent) -> bool {
        let isolated = self.memory.isolate(extent);
        if isolated {
            self.extents[self.waiting.end] = extent;
            self.waiting.end += 1;
        }
        isolated
    }

    /// Makes a request of the next extents that are still there. Says how many were not.
    fn send(&mut self, at_most: usize) -> u64 {
        let mut stolen = 0;
        self.sent = self.waiting.start..self.waiting.start;
        while self.sent.len() < at_most {
            let Some(next) = self.waiting.next() else { break };
            let extent = self.extents[next];
            if self.memory.send(extent) {
                self.extents[self.sent.end] = extent;
                self.sent.end += 1;
            } else {
                self.memory.restore(extent);
                stolen += 1;
            }
        }
        stolen
    }

    /// What the request under way names.
    fn request(&self) -> &[Extent] {
        &self.extents[self.sent.clone()]
    }

    /// Ends the request under way.
    fn settle(&mut self, fate: Fate) {
        for sent in mem::take(&mut self.sent) {
            self.memory.settle(self.extents[sent], fate);
        }
    }

    /// Puts everything back. What no request has named is hinted again.
    fn give_up<S: AsRef<[Word]>>(mut self, hints: &HintMap<S>) {
        self.settle(Fate::Kept);
        for waiting in mem::take(&mut self.waiting) {
            let extent = self.extents[waiting];
            self.memory.restore(extent);
            if let Ok(index) = usize::try_from(extent.index) {
                hints.hint(index..index + 1);
            }
        }
    }
}

impl<M: FreeMemory, const N: usize> Drop for Batch<'_, M, N> {
    /// Does something only if a transport has panicked.
    fn drop(&mut self) {
        self.settle(Fate::Kept);
        for waiting in mem::take(&mut self.waiting) {
            self.memory.restore(self.extents[waiting]);
        }
    }
}
