//! What may be done to a pool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::shortfall::Shortfall;
use super::{Place, Pool, Snapshot, size_name};
use crate::error::{Error, Result};
use crate::procfile;
use crate::units::Bytes;

/// Something to do to a pool of huge pages. Needs root.
///
/// No page is ever taken from anybody: pages in use, promised to a mapping, or lent stay. Whoever
/// else changes the same pool at the same moment may see his change undone, since the kernel is
/// told a size and not a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose pages.
    pub place: Place,
    /// Of which size.
    pub page_size: Bytes,
    /// What to do.
    pub action: Action,
    /// With how many of them.
    pub pages: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Takes free memory for more pages, compacting it as far as the kernel can: 0.1 s a GiB and
    /// more, where it is fragmented.
    Reserve,
    /// Gives pages back to the kernel as ordinary memory. The struct pages of optimised ones are
    /// rebuilt, which takes memory.
    Release,
    /// Splits pages into smaller ones, which stay in the pool of their size (`demote`, Linux 5.16).
    /// There is no way back but to release them and to reserve.
    Demote {
        /// The size of what they become.
        into: Bytes,
    },
}

/// What carrying an order out did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was asked for.
    pub order: Order,
    /// The pools before.
    pub before: Snapshot,
    /// The pools after.
    pub after: Snapshot,
    /// Pages that came, left or were split: as the pools show, which others may have changed too.
    pub done: u64,
    /// Why not all of it was done, and what to do.
    pub shortfall: Option<Shortfall>,
}

impl Order {
    /// How many pages it can be about, by what the kernel tells: no more than can leave; all or none
    /// of those to reserve. None where they take more than can be had: the kernel would try, and
    /// leave nothing to everybody else. How many come then, only trying tells.
    ///
    /// # Errors
    /// Where the place has no pages of this size.
    pub fn possible(&self, now: &Snapshot) -> Result<u64> {
        let pool = now.pool(self.place, self.page_size)?;
        if let Action::Demote { into } = self.action {
            now.pool(self.place, into)?;
        }
        // Pages are promised to mappings by the host: a node has none of its own to keep back.
        let host = now.pool(Place::Host, self.page_size)?;
        Ok(match self.action {
            Action::Reserve if self.memory() > now.available => 0,
            Action::Reserve => self.pages,
            Action::Release | Action::Demote { .. } => {
                self.pages.min(pool.releasable()).min(host.releasable())
            }
        })
    }

    /// What its pages take.
    #[must_use]
    pub fn memory(&self) -> Bytes {
        Bytes(self.pages.saturating_mul(self.page_size.0))
    }

    /// Does it, as far as it goes.
    ///
    /// # Errors
    /// Where the place has no pages of this size, and where the kernel refuses at once: not for root,
    /// or not at run time. Doing only a part, or nothing, of what was asked is none.
    pub fn carry_out(&self) -> Result<Change> {
        let before = Snapshot::take()?;
        let pool = before.pool(self.place, self.page_size)?;
        let pages = self.possible(&before)?;
        if pages > 0 {
            self.tell_kernel(pool, pages)?;
        }
        let after = Snapshot::take()?;
        let now = after.pool(self.place, self.page_size)?;
        let done = match self.action {
            Action::Reserve => now.persistent().saturating_sub(pool.persistent()),
            Action::Release | Action::Demote { .. } => pool.total.saturating_sub(now.total),
        };
        let shortfall = Shortfall::of(self, &before, done)?;
        Ok(Change { order: *self, before, after, done, shortfall })
    }

    fn tell_kernel(&self, pool: Pool, pages: u64) -> Result<()> {
        match self.action {
            Action::Reserve => self.resize(pool.persistent().saturating_add(pages)),
            Action::Release => self.resize(pool.persistent() - pages),
            Action::Demote { into } => self.demote(into, pages),
        }
    }

    /// What the kernel takes is the size of the pool without surplus pages.
    fn resize(&self, pages: u64) -> Result<()> {
        write(&self.file("nr_hugepages"), &pages.to_string()).map_err(|error| match error {
            Error::Os { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                let size = size_name(self.page_size);
                Error::Unavailable {
                    what: format!("this kernel reserves pages of {size} at boot only"),
                    remedy: format!("boot with hugepagesz={size} hugepages={pages}"),
                }
            }
            other => other,
        })
    }

    fn demote(&self, into: Bytes, pages: u64) -> Result<()> {
        let demote_size = self.file("demote_size");
        let kernels = procfile::read_text(&demote_size).map_err(|_| Error::Unavailable {
            what: format!("this kernel cannot split pages of {}", size_name(self.page_size)),
            remedy: "use Linux 5.16 or later, and a size that has a smaller one below it"
                .to_owned(),
        })?;
        let wanted = format!("{}kB", into.0 >> 10);
        if kernels.trim() != wanted {
            write(&demote_size, &wanted)?;
        }
        write(&self.file("demote"), &pages.to_string())
    }

    fn file(&self, name: &str) -> PathBuf {
        let pool = format!("hugepages-{}kB", self.page_size.0 >> 10);
        self.place.directory().join(pool).join(name)
    }
}

/// Writes to a setting, and says what to do where that is not allowed.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root",
            io::ErrorKind::ReadOnlyFilesystem => "run outside of the container",
            _ => return Error::os("write", path.display().to_string(), error),
        };
        let what = format!("cannot write {value} to {}: {error}", path.display());
        Error::Unavailable { what, remedy: remedy.to_owned() }
    })
}
