//! Which zones a pool has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use recoup_core::OwnerId;
use recoup_sys::numa::Node;

use super::error::Result;
use super::zone::Zone;

/// What a zone is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) movability: Movability,
    /// Of which NUMA node its memory is.
    pub(super) node: Option<Node>,
    /// Whose it is, if not everybody's.
    pub(super) of: Option<OwnerId>,
}

/// Whether a zone's extents stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Movability {
    /// Their addresses are known to somebody.
    Fixed,
    /// They are reached through handles only.
    Movable,
}

/// A pool's zones. Those of one owner end with it.
#[derive(Debug, Default)]
pub(super) struct Zones {
    everybodys: Mutex<BTreeMap<Key, Arc<Zone>>>,
    apart: Mutex<Vec<(Key, Weak<Zone>)>>,
}

impl Zones {
    /// The zone for this, made if there is none yet.
    pub(super) fn get(&self, key: Key, make: impl FnOnce() -> Result<Zone>) -> Result<Arc<Zone>> {
        if key.of.is_none() {
            let mut zones = lock(&self.everybodys);
            if let Some(zone) = zones.get(&key) {
                return Ok(Arc::clone(zone));
            }
            let zone = Arc::new(make()?);
            zones.insert(key, Arc::clone(&zone));
            return Ok(zone);
        }
        let zone = Arc::new(make()?);
        let mut zones = lock(&self.apart);
        zones.retain(|(_, zone)| zone.strong_count() > 0);
        zones.push((key, Arc::downgrade(&zone)));
        Ok(zone)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(Key, Arc<Zone>)> {
        let everybodys = lock(&self.everybodys);
        let mut all: Vec<_> =
            everybodys.iter().map(|(&key, zone)| (key, Arc::clone(zone))).collect();
        drop(everybodys);
        let apart = lock(&self.apart);
        all.extend(apart.iter().filter_map(|(key, zone)| Some((*key, zone.upgrade()?))));
        all
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
