//! The same book as a list of chunks, looked at one by one.

use std::collections::BTreeMap;

use recoup_core::hints::{Extent, Fate};
use recoup_core::superchunk::{Backing, ChunkState, LOOKS};
use recoup_core::units::CHUNKS_PER_SUPERCHUNK;
use recoup_core::{ChunkIdx, ChunkRun, Chunks, OwnerId, SuperchunkIdx};

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) state: ChunkState,
    pub(crate) backed: bool,
    pub(crate) bytes_of: Option<OwnerId>,
}

impl Chunk {
    pub(crate) fn is_allocated(&self) -> bool {
        matches!(self.state, ChunkState::Held | ChunkState::Pinned)
    }

    pub(crate) fn is_takeable(&self) -> bool {
        !self.is_allocated() && self.state != ChunkState::InFlight
    }

    fn free(&self) -> ChunkState {
        if self.backed { ChunkState::Warm } else { ChunkState::Cold }
    }
}

/// The pool: chunks by number, if they are part of it, and extents by their first chunk.
#[derive(Debug)]
pub(crate) struct Naive {
    pub(crate) chunks: Vec<Option<Chunk>>,
    pub(crate) extents: BTreeMap<ChunkIdx, (ChunkRun, OwnerId)>,
}

/// What an allocation would get in a superchunk: the best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fit {
    /// 0: backed; 1: backed, but about to be given back; 2: anything else that can be taken.
    preference: usize,
    /// The same, for the best single chunk of the superchunk.
    offer: usize,
    takeable: usize,
}

impl Naive {
    pub(crate) fn new(superchunks: u64) -> Self {
        let chunks = (0..superchunks * Chunks::SUPERCHUNK.0).map(|_| None).collect();
        Self { chunks, extents: BTreeMap::new() }
    }

    pub(crate) fn chunk(&self, at: ChunkIdx) -> Option<&Chunk> {
        self.chunks.get(number(at))?.as_ref()
    }

    /// The chunks of which something holds.
    pub(crate) fn all_that(&self, holds: impl Fn(&Chunk) -> bool) -> Vec<u64> {
        let places = self.chunks.iter().zip(0..);
        places
            .filter_map(|(chunk, place)| Some(place).filter(|_| chunk.as_ref().is_some_and(&holds)))
            .collect()
    }

    pub(crate) fn attach(&mut self, at: SuperchunkIdx, backing: Backing) {
        let backed = backing != Backing::OnTouch;
        let bytes_of = (backing == Backing::Used).then_some(OwnerId::STRANGER);
        let state = if backed { ChunkState::Warm } else { ChunkState::Cold };
        for chunk in whole(at).chunks() {
            self.chunks[number(chunk)] = Some(Chunk { state, backed, bytes_of });
        }
    }

    pub(crate) fn detach(&mut self, at: SuperchunkIdx) {
        whole(at).chunks().for_each(|chunk| self.chunks[number(chunk)] = None);
    }

    pub(crate) fn has(&self, at: SuperchunkIdx) -> bool {
        self.chunk(at.first_chunk()).is_some()
    }

    pub(crate) fn all(&self, run: ChunkRun, holds: impl Fn(&Chunk) -> bool) -> bool {
        run.chunks().all(|chunk| self.chunk(chunk).is_some_and(&holds))
    }

    /// The lowest place of a superchunk for an extent of chunks of which something holds.
    pub(crate) fn lowest(
        &self,
        at: SuperchunkIdx,
        (length, alignment): (u64, u64),
        holds: impl Fn(&Chunk) -> bool,
    ) -> Option<ChunkRun> {
        let starts =
            (0..Chunks::SUPERCHUNK.0).step_by(usize::try_from(alignment).expect("a few chunks"));
        starts
            .filter_map(|slot| ChunkRun::new(at.first_chunk() + Chunks(slot), Chunks(length)))
            .find(|&run| self.all(run, &holds))
    }

    /// What a single warm chunk gives way to, as others need no zeroing.
    pub(crate) fn prefer_own(&self, lowest: ChunkRun, owner: OwnerId) -> ChunkRun {
        let is_warm =
            |at: &ChunkIdx| self.chunk(*at).is_some_and(|it| it.state == ChunkState::Warm);
        if lowest.length() != Chunks(1) || !is_warm(&lowest.start()) {
            return lowest;
        }
        let of_superchunk = whole(lowest.superchunk()).chunks();
        let warm = of_superchunk.filter(|at| *at >= lowest.start() && is_warm(at)).take(LOOKS);
        let is_own = |at: &ChunkIdx| {
            let bytes_of = self.chunk(*at).and_then(|it| it.bytes_of);
            bytes_of.is_none_or(|last| last == owner)
        };
        ChunkRun::single(warm.into_iter().find(is_own).unwrap_or(lowest.start()))
    }

    /// The best that each superchunk has for an extent.
    pub(crate) fn fits(&self, extent: (u64, u64)) -> BTreeMap<SuperchunkIdx, (Fit, ChunkRun)> {
        let superchunks = 0..self.chunks.len() / CHUNKS_PER_SUPERCHUNK;
        superchunks
            .filter_map(|at| {
                let at = SuperchunkIdx(at as u64);
                let (preference, run) = self.best(at, extent)?;
                let (offer, _) = self.best(at, (1, 1)).unwrap_or((2, run));
                let takeable = self.count(at, Chunk::is_takeable);
                Some((at, (Fit { preference, offer, takeable }, run)))
            })
            .collect()
    }

    fn best(&self, at: SuperchunkIdx, extent: (u64, u64)) -> Option<(usize, ChunkRun)> {
        let preferences: [fn(&Chunk) -> bool; 3] = [
            |chunk| chunk.state == ChunkState::Warm,
            |chunk| chunk.is_takeable() && chunk.backed,
            Chunk::is_takeable,
        ];
        let runs = preferences.iter().map(|holds| self.lowest(at, extent, holds));
        runs.enumerate().find_map(|(preference, run)| Some((preference, run?)))
    }

    pub(crate) fn count(&self, at: SuperchunkIdx, holds: impl Fn(&Chunk) -> bool) -> usize {
        whole(at).chunks().filter(|&chunk| self.chunk(chunk).is_some_and(&holds)).count()
    }

    pub(crate) fn count_backed(&self, at: SuperchunkIdx) -> usize {
        self.count(at, |chunk| chunk.backed)
    }

    /// The extents of a superchunk: the first place and the length of each.
    pub(crate) fn extents_of(&self, at: SuperchunkIdx) -> impl Iterator<Item = (usize, usize)> {
        let extents = self.extents.values().filter(move |(run, _)| run.superchunk() == at);
        extents.map(|(run, _)| (run.start().slot(), run.slots().len()))
    }

    /// Hands out a run. Says what it was before.
    pub(crate) fn take(&mut self, run: ChunkRun, owner: OwnerId) -> Vec<Chunk> {
        self.extents.insert(run.start(), (run, owner));
        let held = Chunk { state: ChunkState::Held, backed: true, bytes_of: Some(owner) };
        let before = run.chunks().map(|chunk| self.chunks[number(chunk)].replace(held));
        before.map(|chunk| chunk.expect("part of the pool")).collect()
    }

    /// Takes back a run for which `take` said this.
    pub(crate) fn untake(&mut self, run: ChunkRun, before: &[Chunk]) {
        let (_, owner) = self.extents.remove(&run.start()).expect("an extent");
        for (chunk, before) in run.chunks().zip(before) {
            let bytes_of = match before.bytes_of {
                Some(last) if last != owner => Some(OwnerId::STRANGER),
                _ if before.backed => Some(owner),
                _ => None,
            };
            let free = Chunk { state: ChunkState::Cold, bytes_of, ..*before };
            self.chunks[number(chunk)] = Some(Chunk { state: free.free(), ..free });
        }
    }

    pub(crate) fn free(&mut self, run: ChunkRun) {
        self.extents.remove(&run.start());
        self.set(run, |chunk| chunk.state = ChunkState::Warm);
    }

    pub(crate) fn set(&mut self, run: ChunkRun, change: impl Fn(&mut Chunk)) {
        for chunk in run.chunks() {
            self.chunks
                .get_mut(number(chunk))
                .and_then(Option::as_mut)
                .into_iter()
                .for_each(&change);
        }
    }

    pub(crate) fn isolate(&mut self, extent: Extent) -> bool {
        let Some(run) = extent.run() else { return false };
        let free = |chunk: &Chunk| matches!(chunk.state, ChunkState::Warm | ChunkState::Cold);
        let worth_it = self.all(run, free) && !self.all(run, |chunk| !chunk.backed);
        if worth_it {
            self.set(run, |chunk| chunk.state = ChunkState::Isolated);
        }
        worth_it
    }

    pub(crate) fn restore(&mut self, extent: Extent) {
        let Some(run) = extent.run() else { return };
        self.set(run, |chunk| {
            if chunk.state == ChunkState::Isolated {
                chunk.state = chunk.free();
            }
        });
    }

    pub(crate) fn send(&mut self, extent: Extent) -> bool {
        let Some(run) = extent.run() else { return false };
        let ready = self.all(run, |chunk| chunk.state == ChunkState::Isolated);
        if ready {
            self.set(run, |chunk| chunk.state = ChunkState::InFlight);
        }
        ready
    }

    pub(crate) fn settle(&mut self, extent: Extent, fate: Fate) {
        let Some(run) = extent.run() else { return };
        if !self.all(run, |chunk| chunk.state == ChunkState::InFlight) {
            return;
        }
        self.set(run, |chunk| {
            if fate == Fate::Returned {
                (chunk.backed, chunk.bytes_of) = (false, None);
            }
            chunk.state = chunk.free();
        });
    }
}

fn number(chunk: ChunkIdx) -> usize {
    usize::try_from(chunk.0).expect("a few chunks")
}

/// All chunks of a superchunk.
pub(crate) fn whole(at: SuperchunkIdx) -> ChunkRun {
    ChunkRun::new(at.first_chunk(), Chunks::SUPERCHUNK).expect("a whole superchunk")
}
