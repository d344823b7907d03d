//! An audit finds what only the pool's own code could get wrong.

use std::sync::Arc;

use recoup_core::{Account, Alignment, ChunkRun, Chunks};
use recoup_sys::Bytes;

use super::movable::Cell;
use super::zone::Zone;
use super::{Movable, Owner, OwnerOptions, Pool, Thp, Violation};

fn pool_and_owner() -> (Pool, Owner) {
    let pool = Pool::new(Thp::private(), Bytes(1 << 30));
    let owner = pool.owner(OwnerOptions::default()).unwrap();
    (pool, owner)
}

fn violations(pool: &Pool) -> Vec<Violation> {
    pool.audit().unwrap().violations
}

#[test]
fn an_account_that_is_not_what_the_books_say() {
    let (pool, owner) = pool_and_owner();
    let _held = owner.chunks(Chunks(3)).unwrap();
    assert_eq!(violations(&pool), []);
    let limit = Chunks(9);
    let mut right = Account::new(owner.id(), limit);
    std::mem::swap(&mut owner.0.local().account, &mut right);
    let wrong = Violation::Account { owner: owner.id(), kept: Chunks(0), counted: Chunks(3) };
    assert_eq!(violations(&pool), [wrong]);
    owner.0.local().account = right;
    assert_eq!(violations(&pool), []);
}

#[test]
fn a_spare_chunk_that_is_somebody_elses() {
    let (pool, owner) = pool_and_owner();
    let other = pool.owner(OwnerOptions::default()).unwrap();
    drop(owner.chunk().unwrap());
    let run = owner.0.local().spares.places().next().unwrap();
    let zone = owner.0.zone();
    zone.state().book.free(&mut owner.0.local().account, run).unwrap();
    let grant = {
        let account = &mut other.0.local().account;
        zone.state().book.allocate(account, Chunks(1), Alignment::Chunk).unwrap()
    };
    assert_eq!(grant.extent, run);
    assert_eq!(violations(&pool), [Violation::NotHeld { owner: owner.id(), run }]);
    // Who has such spares cannot end in order.
    std::mem::forget((owner, other));
}

fn movable(owner: &Owner) -> (Movable, Arc<Zone>, ChunkRun) {
    let movable = owner.movable(Chunks(2)).unwrap();
    let zone = Arc::clone(owner.0.movables().unwrap());
    let (&start, _) = zone.state().movables.last_key_value().unwrap();
    (movable, zone, ChunkRun::new(start, Chunks(2)).unwrap())
}

/// Also the only one that there is.
#[test]
fn movable_memory_whose_handle_is_lost() {
    let (pool, owner) = pool_and_owner();
    let (_first, zone, run) = movable(&owner);
    let handle = zone.state().movables.remove(&run.start()).unwrap();
    assert_eq!(violations(&pool), [Violation::Handle(run)]);
    zone.state().movables.insert(run.start(), handle);
    assert_eq!(violations(&pool), []);
    let (_second, _, run) = movable(&owner);
    zone.state().movables.remove(&run.start());
    assert_eq!(violations(&pool), [Violation::Handle(run)]);
}

/// Also if as many handles are lost.
#[test]
fn a_handle_whose_memory_is_lost() {
    let (pool, owner) = pool_and_owner();
    let (_held, zone, run) = movable(&owner);
    let nowhere = ChunkRun::single(run.start() + Chunks(100));
    let handle: Arc<Cell> = zone.state().movables.remove(&run.start()).unwrap();
    zone.state().movables.insert(nowhere.start(), handle);
    assert_eq!(violations(&pool), [Violation::Handle(run), Violation::Handle(nowhere)]);
}
