//! Why an order was not carried out in full, and what to do about it.

use std::fmt;

use super::{Action, Order, Place, Snapshot, size_name};
use crate::error::Result;
use crate::units::Bytes;

/// How far an order came, and what stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    order: Order,
    done: u64,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Less memory can be had than the missing pages take.
    TooLittle { available: Bytes },
    /// There is enough, in pieces that are too small.
    Fragmented,
    /// The pool has no other pages.
    NoMore,
    /// The other pages are not free.
    InUse,
    /// The kernel kept pages that are free.
    Kept,
}

impl Shortfall {
    /// Of an order that came to `done` pages; nothing if that is all.
    ///
    /// # Errors
    /// Where the place has no pages of this size.
    pub fn of(order: &Order, before: &Snapshot, done: u64) -> Result<Option<Self>> {
        if done >= order.pages {
            return Ok(None);
        }
        let possible = order.possible(before)?;
        let cause = match order.action {
            Action::Reserve if done < possible => Cause::Fragmented,
            Action::Reserve => Cause::TooLittle { available: before.available },
            _ if done < possible => Cause::Kept,
            _ if before.pool(order.place, order.page_size)?.total == possible => Cause::NoMore,
            _ => Cause::InUse,
        };
        Ok(Some(Self { order: *order, done, cause }))
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { page_size, pages, place, .. } = self.order;
        let size = size_name(page_size);
        write!(f, "{} of {pages} pages of {size}", self.done)?;
        if let Place::Node(node) = place {
            write!(f, " on {node}")?;
        }
        match (self.cause, place) {
            (Cause::TooLittle { available }, _) => write!(
                f,
                ": only {} MiB of memory can be had; ask for fewer, or free some",
                available.0 >> 20
            ),
            (Cause::Fragmented, Place::Host) => write!(
                f,
                ": memory is fragmented; reserve at boot with hugepagesz={size} hugepages={pages}, \
                 or try again after `echo 3 > /proc/sys/vm/drop_caches; \
                 echo 1 > /proc/sys/vm/compact_memory`"
            ),
            (Cause::Fragmented, Place::Node(node)) => write!(
                f,
                ": the node's memory is in use or fragmented; reserve at boot with \
                 hugepagesz={size} hugepages={}:{pages}, or try again after \
                 `echo 1 > {}/compact`",
                node.0,
                node.directory().display()
            ),
            (Cause::NoMore, _) => f.write_str(": the pool has no more"),
            (Cause::InUse, _) => f.write_str(
                ": the others are in use or promised to a mapping; end the programs that hold them",
            ),
            (Cause::Kept, _) => f.write_str(
                ": the kernel kept free ones, for want of memory for their struct pages; free some \
                 memory first",
            ),
        }
    }
}
