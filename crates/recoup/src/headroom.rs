//! How much more this process can take: the number by which a cache decides to grow or to shrink.

use std::path::{Path, PathBuf};

use recoup_sys::cgroup::{Cgroup, Hierarchy};
use recoup_sys::{Bytes, Process, Result, vmstat};

/// What this process can still take, and what keeps it from taking more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Memory that can still be charged before a limit is met or the host is short of memory.
    pub bytes: Bytes,
    /// What of that the caller can make available itself, and was counted in.
    pub returnable: Bytes,
    /// What is met first.
    pub limited_by: Limit,
}

/// What keeps a process from taking more memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A cgroup's limit: its own, or that of one above.
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// The most that may be charged: `memory.limit_in_bytes` (v1), or the lower one of
        /// `memory.max` and `memory.high` (v2).
        limit: Bytes,
        /// What is charged now, children included.
        charge: Bytes,
        /// Page cache in that charge which was not used lately: the kernel takes it before anything
        /// fails, so it counts as room.
        cache: Bytes,
    },
    /// The memory of the host (`MemAvailable`).
    Host {
        /// What can be had without swapping.
        available: Bytes,
    },
}

/// How much more this process can take: the least over its cgroup, all cgroups above it as far as they
/// are mounted here, and the host. `returnable` is what the caller can give back at once, such as
/// [`crate::Discarder::waiting`] and the [`warm`](crate::pool::Usage::warm) memory of a pool; it is
/// counted in.
///
/// Other processes take from the same memory, so the answer is of the moment. Swap is left out.
/// Reads three files a level: about 50 us a level, most of it for `memory.stat`.
///
/// # Errors
/// Where `/proc` or a file of a cgroup cannot be read.
pub fn headroom(returnable: Bytes) -> Result<Headroom> {
    let mut limits = vec![Limit::Host { available: vmstat::available()? }];
    if let Some(hierarchy) = Hierarchy::find()?
        && let Some(own) = hierarchy.of_process(&Process::own()?)?
    {
        for cgroup in hierarchy.with_ancestors(&own) {
            limits.extend(limit_of(&cgroup)?);
        }
    }
    let of = |limit: &Limit| limit.room().0.saturating_add(returnable.0);
    let nearest = limits.into_iter().map(|limit| (of(&limit), limit)).min_by_key(|(room, _)| *room);
    // There is always the host.
    let (bytes, limited_by) = nearest.unwrap_or((0, Limit::Host { available: Bytes::ZERO }));
    Ok(Headroom { bytes: Bytes(bytes), returnable, limited_by })
}

fn limit_of(cgroup: &Cgroup) -> Result<Option<Limit>> {
    let Some(limit) = cgroup.limit()? else { return Ok(None) };
    Ok(Some(Limit::Cgroup {
        path: cgroup.path().to_owned(),
        limit,
        charge: cgroup.charge()?,
        cache: cgroup.inactive_file()?,
    }))
}

impl Limit {
    /// The cgroup's directory; nothing for the host.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Host { .. } => None,
            Self::Cgroup { path, .. } => Some(path),
        }
    }

    /// What is left below it.
    #[must_use]
    pub fn room(&self) -> Bytes {
        match self {
            Self::Host { available } => *available,
            Self::Cgroup { limit, charge, cache, .. } => {
                limit.saturating_sub(charge.saturating_sub(*cache))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_cache_is_room_and_a_charge_beyond_the_limit_leaves_none() {
        let room = |limit, charge, cache| {
            let [limit, charge, cache] = [limit, charge, cache].map(Bytes);
            Limit::Cgroup { path: PathBuf::new(), limit, charge, cache }.room().0
        };
        assert_eq!(room(100, 60, 0), 40);
        assert_eq!(room(100, 100, 30), 30);
        assert_eq!(room(100, 120, 10), 0);
    }
}
