//! How gigabytes become part of a zone, and leave it.

#![expect(unsafe_code, reason = "memory is put behind the zone's addresses, and taken away")]

use recoup_core::superchunk as book;
use recoup_core::units::CHUNKS_PER_SUPERCHUNK;
use recoup_core::{ChunkRun, OwnerId, Superchunk, SuperchunkIdx};
use recoup_sys::numa;
use recoup_sys::own::Backing;

use super::{NODES, State, Zone};
use crate::pool::error::{Error, Result};
use crate::pool::mapping;
use crate::pool::source::Returns;

impl Zone {
    /// Attaches one more superchunk; `full` where the pool has all that it may have.
    pub(super) fn grow(&self, state: &mut State, full: Error) -> Result<()> {
        if !self.mapping.is_of_this_process() {
            // Before it is asked: a file that is shared with the parent would get another length.
            return Err(Error::Child);
        }
        let mut superchunks = state.book.superchunks().iter().zip((0..).map(SuperchunkIdx));
        let absent = superchunks.find_map(|(superchunk, at)| {
            let absent = !superchunk.is_present() && !state.departing.contains(&at);
            absent.then_some(at)
        });
        let (Some(at), Some(share)) = (absent, self.budget.take()) else {
            return Err(full);
        };
        let gigabyte = self.source.take().map_err(|error| self.refused(error))?;
        // SAFETY: the book says that the superchunk is not part of the pool, and is locked; nor does
        // anybody still unmap it.
        let mapped = unsafe { self.mapping.attach(at, &gigabyte) };
        let ready = mapped.map_err(|error| self.refused(error)).and_then(|()| self.bind(at));
        if let Err(error) = ready {
            // SAFETY: as above.
            let _ = unsafe { self.mapping.detach(at) };
            self.source.put_back(gigabyte);
            return Err(error);
        }
        state.gigabytes.insert(at, gigabyte);
        let attached = state.book.attach(at, self.kind.backing);
        debug_assert!(attached.is_ok(), "an absent superchunk: {attached:?}");
        share.keep();
        Ok(())
    }

    /// Keeps a superchunk's memory on the zone's node.
    fn bind(&self, at: SuperchunkIdx) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        let pages = self.mapping.pages(mapping::whole(at));
        let (name, advice) = (self.kind.name, NODES);
        numa::bind(pages, node).map_err(|source| Error::Source { name, advice, source })
    }

    /// The node goes with the zone: a file would keep it for whoever gets its gigabyte next.
    pub(super) fn unbind(&self, at: SuperchunkIdx) {
        if self.node.is_some() {
            let _ = numa::unbind(self.mapping.pages(mapping::whole(at)));
        }
    }

    /// Gives superchunks back behind which nothing stands any more: nothing that came with the pool's
    /// use of them. Says how many.
    pub(in crate::pool) fn retire(&self) -> u64 {
        if self.kind.backing != book::Backing::OnTouch {
            return self.detach_unused();
        }
        self.detach_those(|superchunk| {
            let tally = superchunk.tally();
            (tally.takeable, tally.warm, tally.waiting) == (CHUNKS_PER_SUPERCHUNK, 0, 0)
        })
    }

    /// Gives superchunks back of which nothing is in use, with what stands behind them. Says how many.
    pub(in crate::pool) fn detach_unused(&self) -> u64 {
        self.detach_those(|superchunk| superchunk.tally().takeable == CHUNKS_PER_SUPERCHUNK)
    }

    fn detach_those(&self, is_meant: impl Fn(&Superchunk) -> bool) -> u64 {
        let meant: Vec<SuperchunkIdx> = {
            let state = self.state();
            let superchunks = state.book.superchunks().iter().zip((0..).map(SuperchunkIdx));
            superchunks
                .filter(|(it, _)| it.is_present() && is_meant(it))
                .map(|(_, at)| at)
                .collect()
        };
        meant.into_iter().filter(|&at| self.detach(at, &is_meant)).count() as u64
    }

    /// Gives a superchunk back if it is meant and nothing of it is in use. That takes milliseconds, and
    /// a large part of a second for a file's: nobody waits for it but who finds no room elsewhere.
    fn detach(&self, at: SuperchunkIdx, is_meant: &impl Fn(&Superchunk) -> bool) -> bool {
        let mut state = self.state();
        let meant = state.book.superchunk(at).is_some_and(is_meant);
        let written = if meant { self.written(&state, at) } else { Vec::new() };
        if !meant || state.book.detach(at).is_err() {
            return false;
        }
        let _passage = self.transit.set_out();
        let gigabyte = state.gigabytes.remove(&at);
        state.departing.insert(at);
        drop(state);

        for run in written {
            // A part that is refused stays in the file.
            // SAFETY: as below; what departs is still mapped.
            let _ = unsafe { self.mapping.discard(run, Backing::Shared) };
        }
        self.unbind(at);
        // SAFETY: the book has made sure that nobody has any of it, and as long as it departs it does
        // not become part of the zone again.
        let unmapped = unsafe { self.mapping.detach(at) };
        if let (Some(gigabyte), Ok(())) = (gigabyte, unmapped) {
            self.source.put_back(gigabyte);
        }
        self.state().departing.remove(&at);
        self.budget.put_back();
        true
    }

    /// What owners have written to and freed, where that is not given back with the gigabyte: of
    /// files, which keep it.
    fn written(&self, state: &State, at: SuperchunkIdx) -> Vec<ChunkRun> {
        let keeps =
            self.kind.backing == book::Backing::Used && self.kind.returns != Returns::Nothing;
        let superchunk = state.book.superchunk(at).filter(|_| keeps);
        let owners = |superchunk: &Superchunk, slot| {
            superchunk.bytes_of(slot).is_some_and(|owner| owner != OwnerId::STRANGER)
        };
        let slots = superchunk.into_iter().flat_map(|superchunk| {
            (0..CHUNKS_PER_SUPERCHUNK).filter(move |&slot| owners(superchunk, slot))
        });
        slots.map(|slot| mapping::part(at, slot..slot + 1)).collect()
    }
}
