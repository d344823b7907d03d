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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hugetlb::Pool;
    use crate::numa::Node;

    const SIZE: Bytes = Bytes(1 << 30);

    /// What is said of an order for eight pages that came to three, on a machine of one node with 16 GiB
    /// available.
    fn said(place: Place, action: Action, pool: Pool) -> String {
        let order = Order { place, page_size: SIZE, action, pages: 8 };
        let pools = vec![(Place::Host, pool), (Place::Node(Node(0)), pool)];
        let available = Bytes(16 << 30);
        let before = Snapshot { memory: available, available, struct_pages: None, pools };
        let all = Shortfall::of(&order, &before, 8).expect("the size is there");
        assert_eq!(all, None);
        let shortfall = Shortfall::of(&order, &before, 3).expect("the size is there");
        shortfall.expect("three are not eight").to_string()
    }

    #[test]
    fn each_cause_has_its_remedy() {
        let pool = |total, free| Pool { page_size: SIZE, total, free, reserved: 0, surplus: 0 };
        assert_eq!(
            said(Place::Host, Action::Reserve, pool(0, 0)),
            "3 of 8 pages of 1G: memory is fragmented; reserve at boot with hugepagesz=1G \
             hugepages=8, or try again after `echo 3 > /proc/sys/vm/drop_caches; \
             echo 1 > /proc/sys/vm/compact_memory`"
        );
        let on_node = said(Place::Node(Node(0)), Action::Reserve, pool(0, 0));
        assert!(
            on_node.starts_with("3 of 8 pages of 1G on node 0: the node's memory is in use or")
        );
        assert!(on_node.contains("hugepages=0:8"), "{on_node}");
        assert!(
            on_node.ends_with("`echo 1 > /sys/devices/system/node/node0/compact`"),
            "{on_node}"
        );
        let release = |pool| said(Place::Host, Action::Release, pool);
        assert!(release(pool(3, 3)).ends_with(": the pool has no more"));
        assert!(release(pool(9, 3)).contains("the others are in use or promised"));
        assert!(release(pool(9, 9)).contains("the kernel kept free ones"));
    }

    #[test]
    fn what_was_never_tried_is_said_to_be_too_much() {
        let order =
            Order { place: Place::Host, page_size: SIZE, action: Action::Reserve, pages: 17 };
        let pool = Pool { page_size: SIZE, total: 0, free: 0, reserved: 0, surplus: 0 };
        let (memory, available) = (Bytes(32 << 30), Bytes(16 << 30));
        let pools = vec![(Place::Host, pool)];
        let before = Snapshot { memory, available, struct_pages: None, pools };
        let shortfall = Shortfall::of(&order, &before, 0).expect("the size is there");
        let said = shortfall.expect("none of 17").to_string();
        assert_eq!(
            said,
            "0 of 17 pages of 1G: only 16384 MiB of memory can be had; ask for fewer, or free some"
        );
    }
}
