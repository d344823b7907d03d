//! Empties the sparsest gigabytes of a pool, so that they go back whole.

use std::sync::{Arc, PoisonError};

use recoup_core::{Chunks, Move, compact};
use recoup_sys::Bytes;

use super::Pool;
use super::zone::Zone;
use super::zones::Movability;

/// What a compaction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Gigabytes that went back to the source.
    pub returned: u64,
    /// What was copied.
    pub moved: Bytes,
    /// Extents that stayed where they were, since somebody used them at that moment or freed them.
    pub passed_over: u64,
}

impl Pool {
    /// Moves movable extents out of the sparsest gigabytes into the others, and gives back every
    /// gigabyte that is empty then: where single chunks move, as many as the free memory allows, with the
    /// fewest copies. Longer extents need room in one piece and are placed greedily, which may empty fewer.
    /// Nothing moves between NUMA nodes, or into or out of gigabytes of an owner [apart](super::OwnerOptions::apart).
    ///
    /// Costs a copy of what moves, at the speed of memcpy(3) where memory is at hand. Meanwhile
    /// everybody goes on; who wants an extent that is being copied waits for that one copy, who allocates
    /// for the plan (0.1 ms a GiB at most), and who finds no room for what is going back.
    pub fn compact(&self) -> Compaction {
        if !self.0.is_here() {
            return Compaction::default();
        }
        let _alone = self.0.moving();
        self.0.give_up_spares();
        let mut done = Compaction::default();
        for (key, zone) in self.0.zones.all() {
            if key.movability == Movability::Movable {
                compact_zone(&zone, &mut done);
            }
            done.returned += zone.detach_unused();
        }
        // For what was left behind in gigabytes that stay.
        self.0.bell.ring();
        done
    }
}

fn compact_zone(zone: &Zone, done: &mut Compaction) {
    let plan = compact::plan(zone.state().book.superchunks());
    for step in plan.moves {
        match relocate(zone, step) {
            Some(length) => done.moved += Bytes(length.bytes()),
            None => done.passed_over += 1,
        }
    }
}

/// Moves one extent, if it is still where the plan saw it and nobody uses it at this moment.
fn relocate(zone: &Zone, step: Move) -> Option<Chunks> {
    let cell = Arc::clone(zone.state().movables.get(&step.from.start())?);
    let mut held = match cell.held.try_write() {
        Ok(held) => held,
        Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
        Err(std::sync::TryLockError::WouldBlock) => return None,
    };
    let (from, _) = held.as_ref().filter(|(_, run)| *run == step.from)?;
    let grant = zone.state().book.begin_move(cell.owner(), step).ok()?;
    if zone.fetch(&grant).is_err() {
        zone.take_back(&grant, |book| book.cancel_move(cell.owner(), &grant));
        return None;
    }
    let mut target = zone.granted(grant).span;
    target.as_mut_slice().copy_from_slice(from.as_slice());
    *held = Some((target, step.to));

    let mut state = zone.state();
    let finished = state.book.finish_move(cell.owner(), step);
    debug_assert!(finished.is_ok(), "its handle is locked here: {finished:?}");
    state.movables.remove(&step.from.start());
    state.movables.insert(step.to.start(), Arc::clone(&cell));
    drop(state);
    zone.hint(step.from);
    Some(step.to.length())
}
