//! What `recoup pool --json` prints, as part of schema 1.

use recoup_sys::Bytes;
use recoup_sys::hugetlb::{Action, Joining, Place, Pool};
use schemars::JsonSchema;
use serde::Serialize;

use super::json::SCHEMA;
use super::pool::{Ordered, State, verb};

/// What `pool --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PoolDocument {
    /// The number of this interface: 1.
    schema: u32,
    /// The pools as they are, after what was ordered.
    now: StateDocument,
    /// What was ordered; with reserve, release and demote.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<OrderDocument>,
    /// What was asked for and not done, in a sentence each.
    errors: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StateDocument {
    /// Memory without what the kernel took at boot (MemTotal). It grows when struct pages from boot are
    /// freed, and never shrinks again.
    memory_bytes: u64,
    /// Whether pages that join a pool from now on have their struct pages freed; null where this kernel
    /// cannot.
    vmemmap_optimised: Option<bool>,
    /// What the struct pages of all memory take when none are freed, and what they take; null where
    /// the kernel does not count them.
    struct_pages_plain_bytes: Option<u64>,
    struct_pages_bytes: Option<u64>,
    /// The pools of the host, and those of its nodes where there are several.
    pools: Vec<PartDocument>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PartDocument {
    page_bytes: u64,
    /// The number of the NUMA node; null for the whole host.
    node: Option<u32>,
    /// Pages, surplus ones included.
    total: u64,
    free: u64,
    /// Free pages that are promised to a mapping; null for a node, of which none are promised.
    reserved: Option<u64>,
    /// Pages that leave the pool once they are free.
    surplus: u64,
    /// Struct pages of the pool without the vmemmap optimisation, and with it.
    struct_pages_plain_bytes: u64,
    struct_pages_optimised_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OrderDocument {
    /// `reserve`, `release` or `demote`.
    action: String,
    page_bytes: u64,
    /// The size of what the pages become; with demote.
    #[serde(skip_serializing_if = "Option::is_none")]
    into_bytes: Option<u64>,
    /// The NUMA node whose pages are meant; null for the whole host.
    node: Option<u32>,
    /// Whether the vmemmap optimisation is switched on first.
    optimise: bool,
    /// Pages that were asked for.
    pages: u64,
    /// Pages of these that were worth a try.
    possible: u64,
    /// Pages that came, left or were split, as the pools show; null with --dry-run.
    done: Option<u64>,
    /// The pools before; null with --dry-run.
    before: Option<StateDocument>,
}

pub(crate) fn status(state: &State) -> PoolDocument {
    PoolDocument { schema: SCHEMA, now: state_document(state), order: None, errors: Vec::new() }
}

pub(crate) fn order(ordered: &Ordered) -> PoolDocument {
    let done = ordered.done.as_ref();
    let order = ordered.order;
    let document = OrderDocument {
        action: verb(order.action).command.to_owned(),
        page_bytes: order.page_size.0,
        into_bytes: match order.action {
            Action::Demote { into } => Some(into.0),
            Action::Reserve | Action::Release => None,
        },
        node: node(order.place),
        optimise: ordered.switch == Some(Joining::Optimised),
        pages: order.pages,
        possible: ordered.possible,
        done: done.map(|(pages, _)| *pages),
        before: done.map(|_| state_document(&ordered.before)),
    };
    PoolDocument {
        schema: SCHEMA,
        now: state_document(done.map_or(&ordered.before, |(_, after)| after)),
        order: Some(document),
        errors: ordered.shortfall.iter().map(ToString::to_string).collect(),
    }
}

fn state_document(state: &State) -> StateDocument {
    let struct_pages = state.pools.struct_pages;
    StateDocument {
        memory_bytes: state.pools.memory.0,
        vmemmap_optimised: state.optimised,
        struct_pages_plain_bytes: struct_pages.map(|pages| pages.plain.0),
        struct_pages_bytes: struct_pages.map(|pages| pages.now.0),
        pools: state.shown().map(|(place, pool)| part(place, pool)).collect(),
    }
}

fn part(place: Place, pool: Pool) -> PartDocument {
    let Bytes(page_bytes) = pool.page_size;
    PartDocument {
        page_bytes,
        node: node(place),
        total: pool.total,
        free: pool.free,
        reserved: (place == Place::Host).then_some(pool.reserved),
        surplus: pool.surplus,
        struct_pages_plain_bytes: pool.struct_pages_plain().0,
        struct_pages_optimised_bytes: pool.struct_pages_optimised().0,
    }
}

fn node(place: Place) -> Option<u32> {
    match place {
        Place::Host => None,
        Place::Node(node) => Some(node.0),
    }
}
