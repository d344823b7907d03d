//! What it costs to know about memory: struct pages that the kernel keeps, and the pool's own books.

use std::fs;

use recoup::pool::{Extent, HugeTlb, Owner, OwnerOptions, Pool, Source, Thp};
use recoup_core::Chunks;
use recoup_core::superchunk::BYTES_PER_SUPERCHUNK;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_sys::hugetlb::{
    Action, OPTIMIZE_VMEMMAP, Order, Place, STRUCT_PAGE, size_name, vmemmap_optimised,
};
use recoup_sys::units::{BLOCK, PAGE, PMD_TABLE_SPAN};
use recoup_testkit::figure::note;
use recoup_testkit::hugepages::HugePages;
use recoup_testkit::{Figure, Size, kernel};

const GIB: u64 = 1 << 30;
/// What `struct page` costs for 4 KiB pages.
const PLAIN_PERCENT: f64 = 100.0 * STRUCT_PAGE.0 as f64 / PAGE.0 as f64;

pub(super) fn print(size: Size) {
    note("metadata of 4 KiB pages", &format!("{PLAIN_PERCENT:.4} % are struct pages alone"));
    if vmemmap_optimised().is_none() || !kernel::is_root() {
        note("metadata of hugetlb pages", "needs root, and CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP");
    } else {
        for gibs in size.pick(&[1, 4, 16][..], &[1]) {
            for (page, target) in [(PMD_TABLE_SPAN, 0.01), (BLOCK, 0.22)] {
                print_hugetlb(page, gibs * GIB, target);
            }
        }
    }
    print_books();
}

/// Metadata of a pool that has all of this memory, in per cent of it.
fn print_hugetlb(page: Bytes, bytes: u64, target: f64) {
    let what = format!("metadata of {} GiB in pages of {}", bytes / GIB, size_name(page));
    let guard = HugePages::reserve_with(&[(OPTIMIZE_VMEMMAP, "1")], &[(page, 0)]);
    let _guard = guard.expect("no page is asked for");
    // Free memory in pieces of a gigabyte, as far as that is possible on a machine that has been up.
    for file in ["drop_caches", "compact_memory"] {
        fs::write(format!("/proc/sys/vm/{file}"), "1").expect("root compacts memory");
    }
    let (action, pages) = (Action::Reserve, bytes / page.0);
    let order = Order { place: Place::Host, page_size: page, action, pages };
    let free = kernel::meminfo_bytes("MemFree");
    let change = order.carry_out().expect("root reserves");
    let taken = free.saturating_sub(kernel::meminfo_bytes("MemFree"));
    if let Some(shortfall) = change.shortfall {
        return note(&what, &format!("not measured: {shortfall}"));
    }
    let (before, after) = (change.before, change.after);
    let plain = bytes / PAGE.0 * STRUCT_PAGE.0;
    // By the kernel's count of struct pages (Linux 6.11), else by what it no longer needs for them.
    // That MemTotal shows once: memory from boot never counts as the kernel's own again.
    let came = after.memory.saturating_sub(before.memory).0;
    let counted = before.struct_pages.zip(after.struct_pages);
    let saved = counted.map_or(came, |(before, after)| before.now.saturating_sub(after.now).0);
    let struct_pages = plain.saturating_sub(saved);
    let source = if page == BLOCK { HugeTlb::two_mib() } else { HugeTlb::one_gib() };
    let (pool, _owner, _all) = full(source.expect("the size was just reserved"), bytes);
    let books = pool.usage().bookkeeping.0;
    let percent = |part: u64| part as f64 * 100.0 / bytes as f64;
    let figure = Figure { what: &what, value: percent(struct_pages + books), target, unit: "%" };
    figure.print(&format!(
        "{} KiB left of {} MiB of struct pages, MemTotal + {} MiB, MemFree - {} MiB; {} KiB of books",
        struct_pages >> 10,
        plain >> 20,
        came >> 20,
        taken >> 20,
        books >> 10
    ));
}

/// A pool of which an owner has everything.
fn full(source: impl Source + 'static, bytes: u64) -> (Pool, Owner, Vec<Extent>) {
    let pool = Pool::new(source, Bytes(bytes));
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    let all = std::iter::from_fn(|| owner.gigabyte().ok()).collect();
    assert_eq!(owner.used(), Bytes(bytes));
    (pool, owner, all)
}

/// How books grow with the pool, whatever is in it, and with what owners have where it is most.
fn print_books() {
    let for_each = format!("{BYTES_PER_SUPERCHUNK} of them for each GiB");
    for gibs in [1, 4, 16, 64, 256, 1024] {
        let (pool, owner) = with_owner(gibs * GIB);
        drop(owner.chunk().expect("a chunk"));
        print_books_of(&pool, gibs, &format!("{gibs} GiB"), &for_each);
    }
    let (pool, owner) = with_owner(4 * GIB);
    let movables: Vec<_> = std::iter::from_fn(|| owner.movable(Chunks(1)).ok()).collect();
    let many = format!("{} extents", movables.len());
    print_books_of(&pool, 4, "4 GiB in extents of a chunk that may move", &many);
    drop(movables);
    let (pool, owner) = with_owner(4 * GIB);
    let pages: Vec<_> = std::iter::from_fn(|| owner.pages(Pages(257)).ok()).collect();
    let books = pool.usage().bookkeeping.0;
    let percent = books as f64 * 100.0 / (4 * GIB) as f64;
    let made_from = format!("{percent:.4} % ({books} bytes, {} extents)", pages.len());
    note("books of 4 GiB in extents of 257 pages, a chunk for each", &made_from);
}

fn with_owner(limit: u64) -> (Pool, Owner) {
    let pool = Pool::new(Thp::private(), Bytes(limit));
    let owner = pool.owner(OwnerOptions::default()).expect("an owner");
    (pool, owner)
}

fn print_books_of(pool: &Pool, gibs: u64, what: &str, made_from: &str) {
    let books = pool.usage().bookkeeping.0;
    let figure = Figure {
        what: &format!("books of {what}"),
        value: books as f64 * 100.0 / (gibs * GIB) as f64,
        target: 0.01,
        unit: "%",
    };
    figure.print(&format!("{books} bytes, {made_from}"));
}
