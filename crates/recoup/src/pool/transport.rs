//! The way back to the source, for the engine of hints.

#![expect(unsafe_code, reason = "what the book keeps from everybody is given back here")]

use recoup_core::hints::{Extent, Fate, FreeMemory, Return};

use super::zone::Zone;

/// A zone's free memory, locked for each step, and the way back for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transport<'a>(pub(super) &'a Zone);

impl FreeMemory for Transport<'_> {
    fn isolate(&mut self, extent: Extent) -> bool {
        self.0.state().book.isolate(extent)
    }

    fn restore(&mut self, extent: Extent) {
        self.0.state().book.restore(extent);
    }

    fn send(&mut self, extent: Extent) -> bool {
        self.0.state().book.send(extent)
    }

    fn settle(&mut self, extent: Extent, fate: Fate) {
        self.0.state().book.settle(extent, fate);
        self.0.tell_settled();
    }
}

impl Return for Transport<'_> {
    type Error = recoup_sys::Error;

    fn give_back(&mut self, extents: &[Extent]) -> Result<(), Self::Error> {
        extents.iter().filter_map(|extent| extent.run()).try_for_each(|run| {
            // SAFETY: the engine gives back what it has sent and not yet settled.
            unsafe { self.0.give_back(run) }
        })
    }
}
