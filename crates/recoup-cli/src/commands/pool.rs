//! `recoup pool`: looks after pools of huge pages.

use recoup_sys::Bytes;
use recoup_sys::hugetlb::{self, Action, Joining, Order, Place, Shortfall, Snapshot};
use recoup_sys::numa::Node;

use super::Done;
use crate::args::pool::{DemoteArgs, OrderArgs, PoolArgs, PoolCommand, ReleaseArgs, ReserveArgs};
use crate::show::pool::{self, Ordered, State};
use crate::show::{json, pool_json};

pub(crate) fn run(args: PoolArgs) -> anyhow::Result<Done> {
    match args.command {
        PoolCommand::Status(args) => status(args.json),
        PoolCommand::Reserve(args) => reserve(&args),
        PoolCommand::Release(args) => release(&args),
        PoolCommand::Demote(args) => demote(&args),
    }
}

fn status(as_json: bool) -> anyhow::Result<Done> {
    let state = look()?;
    if as_json {
        json::print(&pool_json::status(&state))?;
    } else {
        pool::print_status(&state);
    }
    Ok(Done::All)
}

fn reserve(args: &ReserveArgs) -> anyhow::Result<Done> {
    let of_bytes = args.bytes.map(|bytes| bytes.0.div_ceil(args.size.0));
    let pages = args.pages.or(of_bytes).unwrap_or_default();
    let order = order(&args.order, args.size, Action::Reserve, pages);
    let switch = args.optimise.then_some(Joining::Optimised);
    carry_out(order, switch, &args.order)
}

fn release(args: &ReleaseArgs) -> anyhow::Result<Done> {
    let mut order = order(&args.order, args.size, Action::Release, u64::MAX);
    order.pages = match args.pages {
        Some(pages) => pages,
        None => order.possible(&Snapshot::take()?)?,
    };
    carry_out(order, None, &args.order)
}

fn demote(args: &DemoteArgs) -> anyhow::Result<Done> {
    let action = Action::Demote { into: args.into };
    carry_out(order(&args.order, args.size, action, args.pages), None, &args.order)
}

fn order(args: &OrderArgs, page_size: Bytes, action: Action, pages: u64) -> Order {
    let place = args.node.map_or(Place::Host, |node| Place::Node(Node(node)));
    Order { place, page_size, action, pages }
}

fn look() -> anyhow::Result<State> {
    Ok(State { pools: Snapshot::take()?, optimised: hugetlb::vmemmap_optimised() })
}

/// Carries the order out, unless it is only to be said, and shows what came of it. A switch is made
/// only for an order that can be given.
fn carry_out(order: Order, switch: Option<Joining>, args: &OrderArgs) -> anyhow::Result<Done> {
    let before = look()?;
    let possible = order.possible(&before.pools)?;
    let ordered = if args.dry_run {
        let shortfall = Shortfall::of(&order, &before.pools, possible)?;
        Ordered { order, switch, possible, before, done: None, shortfall }
    } else {
        switch.map(hugetlb::set_vmemmap).transpose()?;
        let change = order.carry_out()?;
        let after = State { pools: change.after, optimised: hugetlb::vmemmap_optimised() };
        let before = State { pools: change.before, ..before };
        let done = Some((change.done, after));
        Ordered { order, switch, possible, before, done, shortfall: change.shortfall }
    };
    if args.json {
        json::print(&pool_json::order(&ordered))?;
    } else {
        pool::print_order(&ordered);
    }
    pool::print_shortfall(&ordered);
    Ok(if ordered.shortfall.is_none() { Done::All } else { Done::NotAll })
}
