//! The JSON interface that other programs rely on: schema 1. `recoup schema` prints its description.
//! Within a schema number, members are only ever added.

use std::collections::BTreeMap;
use std::io::Write;

use recoup_reclaim::Mode;
use recoup_reclaim::outcome::{self, ProcessOutcome};
use recoup_reclaim::run::RunOutcome;
use recoup_sys::units::Pages;
use recoup_sys::{Bytes, Features};
use schemars::JsonSchema;
use serde::Serialize;

use super::pool_json::PoolDocument;

/// The number of this interface.
pub(crate) const SCHEMA: u32 = 1;

/// What `report --json` and `reclaim --json` print.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "recoup report --json, recoup reclaim --json")]
pub(crate) struct Document {
    /// The number of this interface: 1.
    schema: u32,
    /// The kernel's release.
    kernel: String,
    /// What this kernel and these privileges allow.
    features: BTreeMap<&'static str, bool>,
    scan: ScanDocument,
    /// The processes, most stuck memory first.
    processes: Vec<ProcessDocument>,
    totals: Totals,
    cgroups: Vec<CgroupDocument>,
    host: HostDocument,
    /// What was asked for and not done, in a sentence each.
    errors: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ScanDocument {
    /// How long it took to find the processes, scan them, and do what was asked.
    seconds: f64,
    /// Pages of 4 KiB that were found to hold something.
    pages: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ProcessDocument {
    pid: i32,
    comm: String,
    /// Resident memory (VmRSS) before anything was done.
    rss_bytes: u64,
    /// Page tables of all levels (VmPTE) before anything was done.
    page_tables_bytes: u64,
    /// Page tables that a fault could rebuild from files or shared memory; not counted as stuck.
    reconstructable_tables_bytes: u64,
    /// Parts of huge pages that other processes map or may map; not counted as stuck.
    shared_holes_bytes: u64,
    stuck: StuckDocument,
    /// What came back, as a second look shows; with reclaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<StuckDocument>,
    /// What was left alone and why; with reclaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_alone: Option<Vec<LeftAloneDocument>>,
    /// What would be done; with reclaim --dry-run.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Vec<PlanDocument>>,
    /// What kept the process from being looked at or acted on.
    errors: Vec<String>,
    /// The mappings with something stuck in them, most first.
    mappings: Vec<MappingDocument>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct StuckDocument {
    /// Charged but unmapped parts of huge pages.
    thp_holes_bytes: u64,
    /// Huge pages with such parts.
    thp_holes_count: u64,
    /// Lazily freed memory that is still resident.
    lazyfree_bytes: u64,
    /// Page tables that map nothing.
    empty_tables_bytes: u64,
    /// Page tables that map nothing but the shared zero page.
    zero_tables_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LeftAloneDocument {
    reason: String,
    bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlanDocument {
    /// The mapping's addresses, in hexadecimal.
    start: String,
    end: String,
    /// Huge pages to split by `process_madvise(MADV_COLD)` on one page of each.
    splits: u64,
    split_bytes: u64,
    /// Ranges to drop by `process_madvise(MADV_PAGEOUT)`.
    drops: u64,
    drop_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MappingDocument {
    /// The first address, in hexadecimal.
    start: String,
    /// The address after the last, in hexadecimal.
    end: String,
    /// Its path or name; empty for anonymous memory.
    name: String,
    thp_holes_bytes: u64,
    thp_holes_count: u64,
    lazyfree_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Totals {
    stuck: StuckDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<StuckDocument>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CgroupDocument {
    path: String,
    /// The charge, children included, before anything was done; null where it has none to read.
    charged_bytes_before: Option<u64>,
    /// The charge after all was done.
    charged_bytes_after: Option<u64>,
    /// Anonymous resident memory of the processes in it that were looked at.
    rss_anon_bytes: u64,
    /// Charge that is neither mapped anonymous memory nor page cache nor the kernel's own.
    unexplained_bytes: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct HostDocument {
    /// Huge pages queued for a split since boot (thp_deferred_split_page).
    deferred_split_count: Option<u64>,
    /// Huge pages split since boot (thp_split_page).
    split_count: Option<u64>,
    /// Sizes of transparent huge pages with the kernel's counters, where it keeps them.
    thp_sizes: Vec<ThpSizeDocument>,
    hugetlb_pools: Vec<HugetlbDocument>,
    /// Whether hugetlb pages that join a pool from now on have their struct pages optimised.
    hugetlb_vmemmap_optimised: Option<bool>,
    /// Anonymous memory of the processes looked at, and the part that one process alone maps.
    anonymous_bytes: u64,
    anonymous_single_owner_bytes: u64,
    /// Processes that were killed or have ended, and still hold memory.
    dying: Vec<DyingDocument>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ThpSizeDocument {
    bytes: u64,
    anonymous_count: Option<u64>,
    partially_mapped_count: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct HugetlbDocument {
    page_bytes: u64,
    total: u64,
    free: u64,
    reserved: u64,
    /// Memory in the pool that nobody uses and nobody was promised.
    idle_bytes: u64,
    /// Struct pages of the pool without the vmemmap optimisation, and with it.
    struct_pages_plain_bytes: u64,
    struct_pages_optimised_bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct DyingDocument {
    pid: i32,
    comm: String,
    state: char,
    rss_bytes: u64,
}

/// The description of all documents: the schema's root is that of `report` and `reclaim`, and the
/// definition `PoolDocument` that of `pool`.
pub(crate) fn schema() -> schemars::Schema {
    let mut generator = schemars::SchemaGenerator::default();
    generator.subschema_for::<PoolDocument>();
    generator.into_root_schema_for::<Document>()
}

/// Prints a document for reading.
pub(crate) fn print(document: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Prints a document on one line.
pub(crate) fn print_line(document: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(document)?;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// The document of a run.
pub(crate) fn document(outcome: &RunOutcome, features: &Features, mode: Mode) -> Document {
    Document {
        schema: SCHEMA,
        kernel: features.kernel.clone(),
        features: features.named().map(|(name, support)| (name, support.works())).collect(),
        scan: ScanDocument { seconds: outcome.took.as_secs_f64(), pages: outcome.pages.0 },
        processes: outcome
            .processes
            .iter()
            .map(|process| process_document(process, mode))
            .collect(),
        totals: Totals {
            stuck: stuck(&outcome.stuck()),
            recovered: (mode != Mode::Report).then(|| stuck(&outcome.recovered())),
        },
        cgroups: cgroups(outcome),
        host: host(outcome),
        errors: outcome.errors().map(str::to_owned).collect(),
    }
}

fn process_document(process: &ProcessOutcome, mode: Mode) -> ProcessDocument {
    let with_reclaim = mode != Mode::Report;
    let left_alone = process
        .left_alone
        .0
        .iter()
        .map(|(reason, amount)| LeftAloneDocument { reason: reason.to_string(), bytes: amount.0 });
    ProcessDocument {
        pid: process.pid,
        comm: process.comm.clone(),
        rss_bytes: process.rss.0,
        page_tables_bytes: process.page_tables.0,
        reconstructable_tables_bytes: process.reconstructable_tables.0,
        shared_holes_bytes: process.shared_holes.0,
        stuck: stuck(&process.stuck),
        recovered: with_reclaim.then(|| stuck(&process.recovered)),
        left_alone: with_reclaim.then(|| left_alone.collect()),
        plan: (mode == Mode::DryRun).then(|| process.mappings.iter().map(plan).collect()),
        errors: process.error.iter().cloned().collect(),
        mappings: process.mappings.iter().map(mapping).collect(),
    }
}

fn stuck(stuck: &outcome::Stuck) -> StuckDocument {
    StuckDocument {
        thp_holes_bytes: stuck.thp_holes.0,
        thp_holes_count: stuck.thp_holes_count,
        lazyfree_bytes: stuck.lazyfree.0,
        empty_tables_bytes: stuck.empty_tables.0,
        zero_tables_bytes: stuck.zero_tables.0,
    }
}

fn mapping(mapping: &outcome::MappingOutcome) -> MappingDocument {
    MappingDocument {
        start: format!("{:x}", mapping.range.start.address()),
        end: format!("{:x}", mapping.range.end.address()),
        name: mapping.name.clone(),
        thp_holes_bytes: mapping.stuck.thp_holes.0,
        thp_holes_count: mapping.stuck.thp_holes_count,
        lazyfree_bytes: mapping.stuck.lazyfree.0,
    }
}

fn plan(mapping: &outcome::MappingOutcome) -> PlanDocument {
    PlanDocument {
        start: format!("{:x}", mapping.range.start.address()),
        end: format!("{:x}", mapping.range.end.address()),
        splits: mapping.planned.splits,
        split_bytes: mapping.planned.split_bytes.0,
        drops: mapping.planned.drops,
        drop_bytes: mapping.planned.drop_bytes.0,
    }
}

fn cgroups(outcome: &RunOutcome) -> Vec<CgroupDocument> {
    let bytes = |amount: Option<Bytes>| amount.map(|amount| amount.0);
    let one = |group: &recoup_reclaim::charge::CgroupOutcome| CgroupDocument {
        path: group.path.display().to_string(),
        charged_bytes_before: bytes(group.charged_before),
        charged_bytes_after: bytes(group.charged_after),
        rss_anon_bytes: group.rss_anon.0,
        unexplained_bytes: bytes(group.unexplained),
    };
    outcome.cgroups.iter().map(one).collect()
}

fn host(outcome: &RunOutcome) -> HostDocument {
    let host = &outcome.host;
    let owners = outcome.owners();
    let sizes = host.thp_sizes.iter().map(|size| ThpSizeDocument {
        bytes: Pages::of_order(size.order).bytes().0,
        anonymous_count: size.anonymous,
        partially_mapped_count: size.partially_mapped,
    });
    let pools = host.hugetlb_pools.iter().map(|pool| HugetlbDocument {
        page_bytes: pool.page_size.0,
        total: pool.total,
        free: pool.free,
        reserved: pool.reserved,
        idle_bytes: pool.idle().0,
        struct_pages_plain_bytes: pool.struct_pages_plain().0,
        struct_pages_optimised_bytes: pool.struct_pages_optimised().0,
    });
    let dying = host.dying.iter().map(|process| DyingDocument {
        pid: process.pid,
        comm: process.comm.clone(),
        state: process.state,
        rss_bytes: process.rss.0,
    });
    HostDocument {
        deferred_split_count: host.deferred_splits,
        split_count: host.splits,
        thp_sizes: sizes.collect(),
        hugetlb_pools: pools.collect(),
        hugetlb_vmemmap_optimised: host.vmemmap_optimised,
        anonymous_bytes: owners.anonymous.bytes().0,
        anonymous_single_owner_bytes: owners.exclusive.bytes().0,
        dying: dying.collect(),
    }
}
