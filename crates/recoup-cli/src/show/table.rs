//! Tables for a person in front of a terminal: most to gain first.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use recoup_reclaim::charge::CgroupOutcome;
use recoup_reclaim::outcome::{LeftAlone, ProcessOutcome, Stuck};
use recoup_reclaim::run::RunOutcome;
use recoup_sys::{Bytes, Features, Support};

use super::{human, plain};

/// Processes that a table shows; the rest is summed up in one line.
const MOST_ROWS: usize = 25;
/// Cgroups that are listed, those with the most unexplained charge.
const MOST_CGROUPS: usize = 10;

/// A table whose first two columns are no numbers.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    for (index, column) in table.column_iter_mut().enumerate() {
        let numbers = index >= 2;
        column.set_padding((0, 2));
        if numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn percentage(part: Bytes, whole: Bytes) -> String {
    match (part.0 * 100).checked_div(whole.0) {
        Some(percent) => format!("{percent} %"),
        None => "-".to_owned(),
    }
}

fn count(stuck: &Stuck) -> String {
    match stuck.thp_holes_count {
        0 => "-".to_owned(),
        pages => pages.to_string(),
    }
}

/// A cgroup's path, whose names anybody may have chosen.
fn path_of(group: &CgroupOutcome) -> String {
    plain(&group.path.display().to_string())
}

/// What is stuck, by process.
pub(crate) fn print_report(outcome: &RunOutcome) {
    let mut table = table(&[
        "PID",
        "COMMAND",
        "RSS",
        "STUCK",
        "THP HOLES",
        "(COUNT)",
        "LAZILY FREED",
        "EMPTY TABLES",
        "ZERO TABLES",
        "TABLES",
        "OF RSS",
    ]);
    for process in outcome.processes.iter().take(MOST_ROWS) {
        let stuck = &process.stuck;
        let (id, name) = (process.pid.to_string(), plain(&process.comm));
        let (rss, tables) = (process.rss, process.page_tables);
        table.add_row(report_row(&id, &name, rss, tables, stuck));
    }
    let total = |amount: fn(&ProcessOutcome) -> Bytes| outcome.processes.iter().map(amount).sum();
    let (rss, tables) = (total(|p| p.rss), total(|p| p.page_tables));
    let name = format!("{} processes", outcome.processes.len());
    table.add_row(report_row("all", &name, rss, tables, &outcome.stuck()));
    anstream::println!("{}", table.trim_fmt());
    if let Some(hidden) = outcome.processes.len().checked_sub(MOST_ROWS + 1) {
        anstream::println!("({} processes with less are not listed: --json has all)", hidden + 1);
    }
}

fn report_row(id: &str, name: &str, rss: Bytes, tables: Bytes, stuck: &Stuck) -> Vec<String> {
    vec![
        id.to_owned(),
        name.to_owned(),
        human(rss),
        human(stuck.total()),
        human(stuck.thp_holes),
        count(stuck),
        human(stuck.lazyfree),
        human(stuck.empty_tables),
        human(stuck.zero_tables),
        human(tables),
        percentage(tables, rss),
    ]
}

/// The mappings with something stuck in them.
pub(crate) fn print_mappings(outcome: &RunOutcome) {
    let mut table = table(&["PID", "MAPPING", "THP HOLES", "(COUNT)", "LAZILY FREED", "NAME"]);
    for process in &outcome.processes {
        for mapping in &process.mappings {
            table.add_row(vec![
                process.pid.to_string(),
                mapping.range.to_string(),
                human(mapping.stuck.thp_holes),
                count(&mapping.stuck),
                human(mapping.stuck.lazyfree),
                plain(&mapping.name),
            ]);
        }
    }
    anstream::println!("\n{}", table.trim_fmt());
}

/// What a dry run would do.
pub(crate) fn print_plan(outcome: &RunOutcome) {
    let mut table = table(&["PID", "MAPPING", "REQUEST", "TIMES", "SHOULD FREE"]);
    for process in &outcome.processes {
        for mapping in &process.mappings {
            let planned = &mapping.planned;
            let requests = [
                ("split by MADV_COLD", planned.splits, planned.split_bytes),
                ("drop by MADV_PAGEOUT", planned.drops, planned.drop_bytes),
            ];
            for (request, times, bytes) in requests.into_iter().filter(|(_, times, _)| *times > 0) {
                table.add_row(vec![
                    process.pid.to_string(),
                    mapping.range.to_string(),
                    request.to_owned(),
                    times.to_string(),
                    human(bytes),
                ]);
            }
        }
    }
    anstream::println!("{}", table.trim_fmt());
    print_left_alone(outcome);
    anstream::println!("nothing was done: this was a dry run");
}

/// What came back, by process, and the charges before and after.
pub(crate) fn print_reclaim(outcome: &RunOutcome) {
    let mut table =
        table(&["PID", "COMMAND", "STUCK", "CAME BACK", "THP HOLES", "SPLIT", "LAZILY FREED"]);
    let row = |id: String, name: String, stuck: &Stuck, recovered: &Stuck| {
        vec![
            id,
            name,
            human(stuck.total()),
            human(recovered.total()),
            human(recovered.thp_holes),
            count(recovered),
            human(recovered.lazyfree),
        ]
    };
    for p in outcome.processes.iter().filter(|p| p.stuck.total() > Bytes::ZERO).take(MOST_ROWS) {
        table.add_row(row(p.pid.to_string(), plain(&p.comm), &p.stuck, &p.recovered));
    }
    let all = format!("{} processes", outcome.processes.len());
    table.add_row(row("all".to_owned(), all, &outcome.stuck(), &outcome.recovered()));
    anstream::println!("{}", table.trim_fmt());
    print_charges(outcome);
    print_left_alone(outcome);
}

fn print_charges(outcome: &RunOutcome) {
    for group in &outcome.cgroups {
        if let (Some(before), Some(after)) = (group.charged_before, group.charged_after) {
            let (path, before, after) = (path_of(group), human(before), human(after));
            anstream::println!("charged to {path}: {before} -> {after}");
        }
    }
}

fn print_left_alone(outcome: &RunOutcome) {
    let mut all = LeftAlone::default();
    outcome.processes.iter().for_each(|process| all.merge(&process.left_alone));
    for (reason, amount) in &all.0 {
        anstream::println!("left alone: {} {reason}", human(*amount));
    }
}

/// What the host and its cgroups show.
pub(crate) fn print_host(outcome: &RunOutcome) {
    let host = &outcome.host;
    anstream::println!();
    let mut groups: Vec<_> = outcome.cgroups.iter().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.unexplained));
    for group in groups.into_iter().take(MOST_CGROUPS) {
        if let (Some(charge), Some(unexplained)) = (group.charged_before, group.unexplained) {
            anstream::println!(
                "cgroup {}: {} charged, {} of it in no process's RSS and no cache",
                path_of(group),
                human(charge),
                human(unexplained)
            );
        }
    }
    let partial: u64 = host.thp_sizes.iter().filter_map(|size| size.partially_mapped).sum();
    if let Some(deferred) = host.deferred_splits {
        anstream::println!(
            "huge pages: {partial} partially mapped now; {deferred} queued for a split since boot"
        );
    }
    let sum = |amount: fn(&ProcessOutcome) -> Bytes| outcome.processes.iter().map(amount).sum();
    anstream::println!(
        "page tables: {} in all; {} could be rebuilt from files and shared memory by a fault",
        human(sum(|process| process.page_tables)),
        human(sum(|process| process.reconstructable_tables))
    );
    let owners = outcome.owners();
    anstream::println!(
        "anonymous memory: {} in memory, {} of it with a single owner",
        human(owners.anonymous.bytes()),
        percentage(owners.exclusive.bytes(), owners.anonymous.bytes())
    );
    for pool in host.hugetlb_pools.iter().filter(|pool| pool.total > 0) {
        anstream::println!(
            "hugetlb {}: {} lie free in the pool; its struct pages cost {}, or {} when optimised",
            human(pool.page_size),
            human(pool.idle()),
            human(pool.struct_pages_plain()),
            human(pool.struct_pages_optimised())
        );
    }
    for process in &host.dying {
        let (pid, comm, rss) = (process.pid, plain(&process.comm), human(process.rss));
        anstream::println!("dying: process {pid} ({comm}) still holds {rss}");
    }
}

/// On stderr: what was not done, and what could not be seen for want of a privilege.
pub(crate) fn print_notes(outcome: &RunOutcome, features: &Features) {
    let warning = Style::new().fg_color(Some(AnsiColor::Yellow.into()));
    let needed = [&features.base_pages, &features.frame_numbers, &features.frame_flags];
    let missing = Support::first_missing(needed);
    if let Some((why, remedy)) = missing {
        anstream::eprintln!(
            "{warning}recoup: holes and lazily freed memory were not looked for, since {why}: \
             {remedy}{warning:#}"
        );
    }
    for error in outcome.errors() {
        anstream::eprintln!("{warning}recoup: {}{warning:#}", plain(error));
    }
}
