//! Pools of huge pages, and what became of an order.

use anstyle::{AnsiColor, Style};
use recoup_sys::Bytes;
use recoup_sys::hugetlb::{
    Action, Joining, Order, Place, Pool, STRUCT_PAGE, Shortfall, Snapshot, size_name,
};
use recoup_sys::units::PAGE;

use super::human;
use super::table::table;

/// The pools at one moment.
pub(crate) struct State {
    pub(crate) pools: Snapshot,
    /// Whether pages that join a pool have their struct pages optimised, where the kernel can.
    pub(crate) optimised: Option<bool>,
}

impl State {
    /// The pools to show: those of nodes where there is more than one.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (Place, Pool)> {
        let all = &self.pools.pools;
        let nodes = all.iter().filter_map(|(place, _)| match place {
            Place::Host => None,
            Place::Node(node) => Some(node),
        });
        let several = nodes.clone().max() != nodes.min();
        all.iter().copied().filter(move |(place, _)| several || *place == Place::Host)
    }

    /// The most that the optimisation can save in the pools: if all of their pages joined while it
    /// was on.
    fn most_saved(&self) -> Bytes {
        let saved =
            |pool: Pool| pool.struct_pages_plain().saturating_sub(pool.struct_pages_optimised());
        self.pools.at(Place::Host).map(saved).sum()
    }
}

/// An order and what became of it.
pub(crate) struct Ordered {
    pub(crate) order: Order,
    /// What the optimisation is switched to first.
    pub(crate) switch: Option<Joining>,
    /// Pages that the order could be about.
    pub(crate) possible: u64,
    pub(crate) before: State,
    /// What was done, and the pools after it; nothing of a dry run.
    pub(crate) done: Option<(u64, State)>,
    pub(crate) shortfall: Option<Shortfall>,
}

pub(crate) fn print_status(now: &State) {
    print_pools(now, now);
    print_memory(now, now);
}

pub(crate) fn print_order(ordered: &Ordered) {
    let Order { page_size, pages, place, action } = ordered.order;
    let of = match place {
        Place::Host => format!("pages of {}", size_name(page_size)),
        Place::Node(node) => format!("pages of {} on {node}", size_name(page_size)),
    };
    if let Some((done, after)) = &ordered.done {
        anstream::println!("{} {done} of {pages} {of}\n", verb(action).past);
        print_pools(&ordered.before, after);
        print_memory(&ordered.before, after);
        return;
    }
    let memory = human(Bytes(ordered.possible.saturating_mul(page_size.0)));
    if ordered.switch == Some(Joining::Optimised) {
        anstream::println!("would switch vm.hugetlb_optimize_vmemmap on");
    }
    anstream::println!("would {} {} {of} ({memory})", verb(action).future, ordered.possible);
    anstream::println!("nothing was done: this was a dry run");
}

/// What an action is called: its subcommand, and in sentences before and after it.
pub(crate) struct Verb {
    pub(crate) command: &'static str,
    future: &'static str,
    past: &'static str,
}

pub(crate) fn verb(action: Action) -> Verb {
    let verb = |command, future, past| Verb { command, future, past };
    match action {
        Action::Reserve => verb("reserve", "reserve", "reserved"),
        Action::Release => verb("release", "release", "released"),
        Action::Demote { .. } => verb("demote", "split", "split"),
    }
}

/// On stderr: what was not done, why, and what to do.
pub(crate) fn print_shortfall(ordered: &Ordered) {
    if let Some(shortfall) = ordered.shortfall {
        let warning = Style::new().fg_color(Some(AnsiColor::Yellow.into()));
        anstream::eprintln!("{warning}recoup: {shortfall}{warning:#}");
    }
}

fn print_pools(before: &State, after: &State) {
    let mut table = table(&[
        "PAGES",
        "NODE",
        "TOTAL",
        "FREE",
        "RESERVED",
        "SURPLUS",
        "MEMORY",
        "STRUCT PAGES",
        "OPTIMISED",
    ]);
    for ((place, old), (_, new)) in before.shown().zip(after.shown()) {
        let both = |count: fn(Pool) -> u64| arrow(count(old), count(new), |n| n.to_string());
        let bytes = |amount: fn(Pool) -> Bytes| arrow(amount(old), amount(new), amount_or_0);
        let (node, reserved) = match place {
            Place::Host => ("all".to_owned(), both(|pool| pool.reserved)),
            Place::Node(node) => (node.0.to_string(), "-".to_owned()),
        };
        let one = Pool { total: 1, ..new };
        table.add_row(vec![
            size_name(new.page_size),
            node,
            both(|pool| pool.total),
            both(|pool| pool.free),
            reserved,
            both(|pool| pool.surplus),
            bytes(Pool::memory),
            with_share(&bytes(Pool::struct_pages_plain), one.struct_pages_plain(), one),
            with_share(&bytes(Pool::struct_pages_optimised), one.struct_pages_optimised(), one),
        ]);
    }
    anstream::println!("{}", table.trim_fmt());
}

fn print_memory(before: &State, after: &State) {
    let (old, new) = (before.pools.memory, after.pools.memory);
    let grown = new.saturating_sub(old);
    let grown =
        if grown > Bytes::ZERO { format!(", {} more", human(grown)) } else { String::new() };
    let share = share(STRUCT_PAGE, PAGE);
    anstream::println!("\nMemTotal: {}{grown}", human(new));
    match (before.pools.struct_pages, after.pools.struct_pages) {
        (Some(old), Some(new)) => anstream::println!(
            "struct pages of all memory: {} ({share} of it), saved by the optimisation: {}",
            human(new.plain),
            arrow(old.saved(), new.saved(), amount_or_0)
        ),
        _ if after.most_saved() > Bytes::ZERO => anstream::println!(
            "struct pages: {share} of memory, saved by the optimisation: at most {} (not counted by \
             this kernel)",
            human(after.most_saved())
        ),
        _ => anstream::println!("struct pages: {share} of memory"),
    }
    let joining = match after.optimised {
        Some(true) => "have their struct pages freed (vm.hugetlb_optimize_vmemmap is on)",
        Some(false) => "keep their struct pages (vm.hugetlb_optimize_vmemmap is off)",
        None => "keep their struct pages: this kernel cannot free them",
    };
    anstream::println!("pages that join a pool from now on {joining}");
}

/// An amount that may come from nothing or become nothing, where a dash would look like an arrow.
fn amount_or_0(amount: Bytes) -> String {
    if amount == Bytes::ZERO { "0".to_owned() } else { human(amount) }
}

/// One value, or how it changed.
fn arrow<T: PartialEq>(before: T, after: T, show: impl Fn(T) -> String) -> String {
    if before == after {
        return show(after);
    }
    format!("{} -> {}", show(before), show(after))
}

/// An amount with what part of the memory it is, by the example of one page.
fn with_share(amount: &str, part: Bytes, page: Pool) -> String {
    format!("{amount} ({})", share(part, page.page_size))
}

/// A part in per cent, with as many digits as it takes to see it.
fn share(part: Bytes, whole: Bytes) -> String {
    let percent = part.0 as f64 * 100.0 / whole.0 as f64;
    let digits = if percent < 0.01 { 4 } else { 2 };
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_seen_however_small() {
        let of = |part, whole| share(Bytes(part), Bytes(whole));
        assert_eq!(of(64, 4096), "1.56 %");
        assert_eq!(of(4096, 2 << 20), "0.20 %");
        assert_eq!(of(4096, 1 << 30), "0.0004 %");
    }

    #[test]
    fn what_stays_is_said_once() {
        assert_eq!(arrow(3, 3, |n| n.to_string()), "3");
        assert_eq!(arrow(3, 4, |n| n.to_string()), "3 -> 4");
    }
}
