//! Single-owner memory: gigabytes from a [source], managed in chunks of 2 MiB, of which each
//! belongs to one owner or to none.
//!
//! ```
//! use recoup::pool::{Bytes, Chunks, OwnerOptions, Pool, Thp};
//!
//! let pool = Pool::new(Thp::private(), Bytes(4 << 30));
//! let owner = pool.owner(OwnerOptions::default().quota(Bytes(1 << 30)))?;
//! let mut extent = owner.chunk()?;
//! extent[0] = 42;
//! let run = owner.chunks(Chunks(3))?;
//! drop((extent, run));
//! pool.trim();
//! # Ok::<(), recoup::pool::Error>(())
//! ```
//!
//! What is guaranteed:
//!
//! 1. A byte belongs to one owner at a time, and is reached only through its [`Extent`] or
//!    [`Movable`]. What somebody else had is zeroed before an owner gets it.
//! 2. A forked child has none of it, unless its [source](Thp::inherited) says so.
//! 3. What is refused changes nothing, and nothing is handed out that the kernel would refuse at the
//!    first touch: but for [ordinary memory](Thp), of which the machine can be short at any touch
//!    ([`Extent::prefault`] finds out before), and files on some [file systems](External).
//! 4. An extent stays where it is; a movable one goes where a compaction needs it, but never while
//!    somebody reads or writes it.
//! 5. Free memory goes back while others allocate; who wants just that memory waits for one request.
//!    Only who finds no room anywhere waits for all that is on its way back (a gigabyte takes 3 ms in
//!    huge pages; 66 in base pages, 180 of a memfd), before he is refused.
//!
//! | module | what it does |
//! |---|---|
//! | [`source`] | where memory comes from |
//! | `mapping` | addresses, and the bytes behind them |
//! | `zone` | a part of the pool with a book of its own |
//! | `owner`, `spares`, `desks` | who has memory, what is kept at hand, chunks in base pages |
//! | `extent`, `movable`, `advice` | the memory itself |
//! | `zeroed`, `blocks`, `allocator`, `global` | memory for collections, and for a whole program |
//! | `vm` | a virtual machine's memory |
//! | `returns`, `bell`, `transport`, `transit` | what is free goes back to the source |
//! | `compact` | sparse gigabytes become empty |
//! | `audit` | the books against each other and against the kernel |

mod advice;
#[cfg(feature = "allocator-api2")]
mod allocator;
mod audit;
mod bell;
mod blocks;
mod budget;
mod compact;
mod desks;
mod error;
mod extent;
mod global;
mod mapping;
mod movable;
#[cfg(all(test, loom))]
mod orders;
mod owner;
// Maps memory as miri cannot.
#[cfg(not(miri))]
#[cfg(test)]
mod planted;
mod returns;
pub mod source;
mod spares;
mod transit;
mod transport;
mod usage;
#[cfg(feature = "vm")]
mod vm;
mod zeroed;
mod zone;
mod zones;

pub use advice::Advice;
pub use audit::{Audit, Violation};
pub use compact::Compaction;
pub use error::{Error, Result};
pub use extent::Extent;
pub use global::{Large, LargeOptions};
pub use movable::{Movable, NotPinned, Reading, Writing};
pub use owner::{Owner, OwnerOptions};
pub use returns::{Background, ReturnSettings, Returned};
pub use source::{External, HugeTlb, Source, Thp};
// What its types tell of.
pub use recoup_core::account::QuotaExceeded;
pub use recoup_core::superchunk::Violation as BookViolation;
// The units of what is asked for here.
pub use recoup_core::units::{Chunks, Pages};
pub use recoup_core::{ChunkIdx, ChunkRun, OwnerId};
pub use recoup_sys::Bytes;
pub use usage::Usage;
#[cfg(feature = "vm")]
pub use vm::{GuestMemory, GuestRegion};

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use recoup_sys::Errno;
use recoup_sys::addresses::Forking;
use recoup_sys::home::Home;
use recoup_sys::numa::{self, Node};

use bell::Bell;
use budget::Budget;
use owner::Holder;
use transit::Transit;
use zone::{NODES, Zone};
use zones::{Key, Zones};

/// Others may free as fast as somebody looks: then what he found until now has to do.
const MOST_LOOKS: usize = 16;

/// Memory of one source, for many owners. A clone is the same pool. It ends with its last owner's last
/// extent.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

/// What a pool's handles and owners share.
#[derive(Debug)]
struct Shared {
    /// Whose pool it is; nobody's if there was not even a page to tell.
    home: Option<Home>,
    source: Arc<dyn Source>,
    budget: Arc<Budget>,
    transit: Arc<Transit>,
    zones: Zones,
    holders: Mutex<Vec<Weak<Holder>>>,
    next_owner: AtomicU32,
    bell: Bell,
    /// Held by whoever moves extents, or wants none to move.
    moves: Mutex<()>,
}

impl Pool {
    /// A pool of at most `limit` bytes, rounded down to whole gigabytes but at least one. It takes
    /// none before it is asked for memory.
    ///
    /// Extents that stay, extents that may move, those of a NUMA node and those of an owner
    /// [apart](OwnerOptions::apart) each come from gigabytes of their own. Each of these kinds that is
    /// used takes 2.5 KiB of books, and a gigabyte of addresses, for each gigabyte of the limit.
    #[must_use]
    pub fn new(source: impl Source + 'static, limit: Bytes) -> Self {
        Self(Arc::new(Shared {
            home: Home::new().ok(),
            source: Arc::new(source),
            budget: Arc::new(Budget::new(limit)),
            transit: Arc::default(),
            zones: Zones::default(),
            holders: Mutex::default(),
            next_owner: AtomicU32::new(1),
            bell: Bell::default(),
            moves: Mutex::default(),
        }))
    }

    /// A new owner, who has nothing yet.
    ///
    /// # Errors
    /// There are no addresses left for its memory; its node has no memory; or the pool is the parent's of a
    /// forked child.
    pub fn owner(&self, options: OwnerOptions) -> Result<Owner> {
        // Relaxed: all that counts is that numbers differ.
        let one_more = |number: u32| OwnerId::new(number).map(|_| number + 1);
        let next = &self.0.next_owner;
        let number = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let id = number.ok().and_then(OwnerId::new).ok_or(Error::Owners)?;
        let owner = Owner::new(Arc::clone(&self.0), id, options)?;
        let mut holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(Arc::downgrade(&owner.0));
        Ok(owner)
    }
}

impl Shared {
    /// The zone for this.
    fn zone(&self, key: Key) -> Result<Arc<Zone>> {
        if !self.is_here() {
            return Err(Error::Child);
        }
        key.node.map_or(Ok(()), |node| self.has_node(node))?;
        self.zones.get(key, || {
            let (source, budget) = (Arc::clone(&self.source), Arc::clone(&self.budget));
            Zone::new(source, budget, Arc::clone(&self.transit), key.node)
        })
    }

    /// Refuses a node without memory, before somebody has an owner that gets none.
    fn has_node(&self, node: Node) -> Result<()> {
        let subject = format!("memory to {node}");
        let missing = || recoup_sys::Error::os("bind", subject, Errno::INVAL);
        let nodes = numa::nodes_with_memory();
        let found = nodes.and_then(|nodes| nodes.contains(&node).then_some(()).ok_or_else(missing));
        let name = self.source.kind().name;
        found.map_err(|source| Error::Source { name, advice: NODES, source })
    }

    /// Whether this process has the pool's memory: a forked child has it only if it inherits it.
    fn is_here(&self) -> bool {
        let inherited = self.source.kind().forking == Forking::Inherited;
        inherited || self.home.as_ref().is_some_and(Home::is_here)
    }

    /// All owners that there are.
    fn holders(&self) -> Vec<Arc<Holder>> {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.iter().filter_map(Weak::upgrade).collect()
    }

    /// Puts all that owners keep at hand back into the books.
    fn give_up_spares(&self) {
        self.holders().iter().for_each(|holder| holder.give_up_spares());
    }

    /// The same for owners that have not used it since the last call.
    fn give_up_idle_spares(&self) {
        for holder in self.holders() {
            let was_active = std::mem::take(&mut holder.local().is_active);
            if !was_active {
                holder.give_up_spares();
            }
        }
    }

    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_spares(&self) -> bool {
        self.holders().iter().any(|holder| holder.local().spares.count().0 > 0)
    }

    /// Gives back whole gigabytes that are kept without need, so that somebody finds room.
    fn make_room(&self) {
        self.give_up_spares();
        self.look_until_alone(|| {
            self.zones.all().iter().map(|(_, zone)| zone.detach_unused()).sum()
        });
    }

    /// Looks for memory to give back, by `look`, which says how many passages it made of that. Of what
    /// others are giving back meanwhile it may not have seen the rest: so it waits for them, and
    /// looks again.
    fn look_until_alone(&self, mut look: impl FnMut() -> u64) {
        for _ in 0..MOST_LOOKS {
            let before = self.transit.arrived();
            let own = look();
            // A child that inherits the pool has none of the threads whose passages it sees.
            if self.home.as_ref().is_some_and(Home::is_here) {
                self.transit.wait();
            }
            if self.transit.arrived() - before <= own {
                return;
            }
        }
    }
}
