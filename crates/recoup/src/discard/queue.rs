//! Splits that another task does: the companion, which shares nothing with this program's threads but
//! memory, and so neither takes a lock nor allocates.

use super::edge::age_one;
use super::slots::Slots;

/// Blocks that can be offered at a time.
const SLOTS: usize = 64;

/// Blocks that wait for a helper to split them.
#[derive(Debug)]
pub struct SplitQueue {
    pub(super) slots: Slots<SLOTS>,
}

impl Default for SplitQueue {
    fn default() -> Self {
        Self { slots: Slots::new() }
    }
}

impl SplitQueue {
    /// Splits what is offered, and tells whether there was anything. For the helper: allocates
    /// nothing, takes no lock, doesn't panic.
    pub fn split_offered(&self) -> bool {
        self.slots.serve(|first, holes| {
            // Ageing changes no byte, whichever page it is. What is refused is refused to everybody;
            // it counts as tried.
            let _ = age_one(first, |index| !holes.has(index));
        })
    }
}
