//! What madvise(2) does with an extent, by source: the table in docs/pool.md, measured.
//!
//! The test's message is the measured row, as it has to stand there.

use std::io::Read;
use std::ptr::NonNull;

use recoup::pool::{Advice, Error, Extent, External, HugeTlb, Pool, Source, Thp};
use recoup_core::units::Pages;
use recoup_sys::pagemap::{Pagemap, Word};
use recoup_sys::units::{BLOCK, PMD_TABLE_SPAN};
use recoup_sys::{Bytes, PageIdx};
use recoup_testkit::kernel::{self, own_pid, smaps_bytes_in};
use recoup_testkit::{HugePages, require, require_in_guest};

use crate::common::{GIB, all_are, assert_clean, in_memory, memfd, owner, shared};
use crate::reserved_memory::reserved;

/// A row: its name, the number, and since when the kernel knows it for private memory, and for shared.
struct Row {
    name: &'static str,
    advice: i32,
    since: [(u32, u32); 2],
}

const GUARD_INSTALL: i32 = 102;
const OLD: (u32, u32) = (5, 4);

const ROWS: [Row; 12] = [
    Row { name: "DONTNEED", advice: libc::MADV_DONTNEED, since: [OLD, OLD] },
    Row { name: "REMOVE", advice: libc::MADV_REMOVE, since: [OLD, OLD] },
    Row { name: "FREE", advice: libc::MADV_FREE, since: [OLD, OLD] },
    Row { name: "COLD", advice: libc::MADV_COLD, since: [OLD, OLD] },
    Row { name: "PAGEOUT", advice: libc::MADV_PAGEOUT, since: [OLD, OLD] },
    Row { name: "POPULATE_READ", advice: libc::MADV_POPULATE_READ, since: [(5, 14), (5, 14)] },
    Row { name: "POPULATE_WRITE", advice: libc::MADV_POPULATE_WRITE, since: [(5, 14), (5, 14)] },
    Row { name: "COLLAPSE", advice: libc::MADV_COLLAPSE, since: [(6, 1), (6, 1)] },
    Row { name: "HUGEPAGE", advice: libc::MADV_HUGEPAGE, since: [OLD, OLD] },
    Row { name: "NOHUGEPAGE", advice: libc::MADV_NOHUGEPAGE, since: [OLD, OLD] },
    Row { name: "DONTDUMP", advice: libc::MADV_DONTDUMP, since: [OLD, OLD] },
    Row { name: "GUARD_INSTALL", advice: GUARD_INSTALL, since: [(6, 13), (6, 15)] },
];

fn advise(extent: &Extent, advice: i32) -> Result<(), std::io::Error> {
    let start = extent.as_ptr().as_ptr().cast();
    // SAFETY: the extent is the test's own, and no reference into it is used across the call.
    let result = unsafe { libc::madvise(start, extent.len(), advice) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A byte, if it can be read: the kernel tells where a touch would be met by a signal.
fn peek(byte: NonNull<u8>) -> Option<u8> {
    let (mut out, into) = std::io::pipe().expect("a pipe");
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&into);
    // SAFETY: the kernel reads a byte, or refuses.
    let written = unsafe { libc::write(descriptor, byte.as_ptr().cast(), 1) };
    let mut read = [0];
    (written == 1 && out.read(&mut read).is_ok()).then_some(read[0])
}

/// The flags that smaps shows of the mapping at an address.
fn has_flag(address: u64, flag: &str) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let is_start =
        |line: &str| line.split('-').next().is_some_and(|it| u64::from_str_radix(it, 16).is_ok());
    let mut inside = false;
    smaps.lines().any(|line| {
        if let (Some((from, rest)), true) = (line.split_once('-'), is_start(line)) {
            let to = rest.split(' ').next().unwrap_or_default();
            let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            inside = (number(from)..number(to)).contains(&address);
        }
        inside && line.starts_with("VmFlags") && line.split(' ').any(|word| word == flag)
    })
}

/// What a piece of advice does: a cell of the table.
fn measure(extent: &mut Extent, row: &Row) -> String {
    let start = extent.as_ptr();
    let addresses = start.addr().get() as u64..start.addr().get() as u64 + extent.len() as u64;
    if row.name == "COLLAPSE" {
        // Base pages, which then may be huge ones. Refused of hugetlb pages.
        let _ = advise(extent, libc::MADV_NOHUGEPAGE);
    }
    if !row.name.starts_with("POPULATE") {
        extent.fill(7);
    }
    if row.name == "COLLAPSE" {
        let _ = advise(extent, libc::MADV_HUGEPAGE);
    }
    // Without struct pages nothing ever is.
    let was_shown = in_memory(addresses.clone()) > 0;
    if let Err(error) = advise(extent, row.advice) {
        return match error.raw_os_error() {
            Some(libc::EINVAL) => "EINVAL".to_owned(),
            Some(libc::EACCES) => "EACCES".to_owned(),
            Some(libc::ENODEV) => "ENODEV".to_owned(),
            _ => error.to_string(),
        };
    }
    let there = in_memory(addresses.clone()) > 0;
    let lazy = smaps_bytes_in(own_pid(), addresses.clone(), "LazyFree") > 0;
    let huge = || is_huge(PageIdx::containing(addresses.start));
    let contents = match peek(start) {
        None => "a touch is met by SIGSEGV",
        Some(0) => "zeroes",
        Some(_) => "kept",
    };
    let mut words = vec![contents];
    let may_be_swapped = ["COLD", "PAGEOUT"].contains(&row.name);
    if was_shown && !there && !may_be_swapped && contents != "a touch is met by SIGSEGV" {
        words.push("not in memory");
    }
    words.extend((lazy && row.name == "FREE").then_some("until memory is short"));
    words.extend((row.name == "COLLAPSE" && huge()).then_some("huge"));
    let flags = [("HUGEPAGE", "hg"), ("NOHUGEPAGE", "nh"), ("DONTDUMP", "dd")];
    let flag = flags.iter().find(|(name, _)| *name == row.name);
    let sticks = flag.is_some_and(|(_, flag)| has_flag(addresses.start, flag));
    words.extend(sticks.then_some("stays with the addresses"));
    words.join(", ")
}

/// Whether the block's frames lie in a row, from a multiple of its size on.
fn is_huge(block: PageIdx) -> bool {
    let mut words = [0; 512];
    Pagemap::of_self().expect("pagemap").read(block, &mut words).expect("pagemap");
    let frames: Option<Vec<u64>> = words.iter().map(|&word| Some(Word(word).frame()?.0)).collect();
    frames.is_some_and(|frames| {
        frames[0] % 512 == 0 && frames.iter().zip(frames[0]..).all(|(&frame, next)| frame == next)
    })
}

fn file() -> External {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.set_len(GIB).expect("a sparse file");
    // SAFETY: nobody else has it.
    unsafe { External::new(file, Bytes(0)..Bytes(GIB)) }.expect("a file")
}

/// The row of the document that begins with this.
fn documented(name: &str) -> Vec<String> {
    let text = include_str!("../../../../docs/pool.md");
    let start = format!("| `{name}` |");
    let line = text.lines().find(|line| line.starts_with(&start));
    let cells = line.unwrap_or_default().split('|').skip(2).map(|cell| cell.trim().to_owned());
    cells.collect()
}

/// A column, measured from top to bottom.
fn column(source: impl Source + 'static, number: usize) {
    let pool = Pool::new(source, Bytes(GIB));
    let tenant = owner(&pool);
    let since = |row: &Row| if number == 0 { row.since[0] } else { row.since[1] };
    // The first is at the start of a gigabyte, where the kernel rounds a part of its page to nothing.
    let mut extents = vec![tenant.chunk().expect("a chunk")];
    let wrong = ROWS.iter().filter_map(|row| {
        // Kept, so that each row has its own.
        extents.push(tenant.chunk().expect("a chunk"));
        let measured = extents.last_mut().map(|extent| measure(extent, row)).unwrap_or_default();
        let documented = documented(row.name);
        let expected = documented.get(number).map_or("not there", String::as_str);
        let expected = if kernel::version() < since(row) { "EINVAL" } else { expected };
        (measured != expected).then(|| format!("{}: {measured}; documented: {expected}", row.name))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0], "column {number}");
}

#[test]
fn of_private_memory() {
    column(Thp::private(), 0);
}

#[test]
fn of_a_memfd() {
    column(memfd(), 1);
}

#[test]
fn of_huge_pages() {
    let guard = HugePages::reserve(&[(BLOCK, 24)]);
    require!(guard.is_ok(), "24 huge pages of 2 MiB");
    require!(kernel::version() >= (5, 18), "MADV_DONTNEED of huge pages (Linux 5.18)");
    let source = || HugeTlb::two_mib().expect("huge pages");
    column(source(), 2);
    column(shared(source()), 3);
}

#[test]
fn of_a_part_of_a_huge_gigabyte() {
    let guard = HugePages::reserve(&[(PMD_TABLE_SPAN, 1)]);
    require_in_guest!("gigabytes", guard.is_ok(), "a huge page of 1 GiB");
    let source = || HugeTlb::one_gib().expect("huge pages");
    column(source(), 4);
    column(shared(source()), 5);
}

#[test]
fn of_a_file() {
    column(file(), 6);
}

#[test]
fn of_reserved_memory() {
    let source = reserved();
    require_in_guest!("reserved", source.is_some(), "memory that the kernel leaves alone");
    column(source.expect("just looked"), 7);
}

fn is_refused(result: Result<(), Error>) -> bool {
    matches!(result, Err(Error::Advice { .. }))
}

/// What is on offer has its effect, on chunks and on pages.
#[test]
fn what_is_safe_has_its_effect() {
    for source in [Thp::private(), memfd()] {
        let pool = Pool::new(source, Bytes(GIB));
        let tenant = owner(&pool);
        let mut extents = [tenant.chunk(), tenant.pages(Pages(64))].map(|it| it.expect("memory"));
        let neighbour = tenant.pages(Pages(64)).map(|mut pages| {
            pages.fill(9);
            pages
        });
        for extent in &mut extents {
            extent.fill(7);
            for advice in [Advice::Cold, Advice::PageOut] {
                extent.advise(advice).expect("it takes that");
                assert!(all_are(extent, 7));
            }
            let start = extent.as_ptr().addr().get() as u64;
            extent.advise(Advice::Discard).expect("it takes that");
            assert_eq!(in_memory(start..start + extent.len() as u64), 0);
            assert!(all_are(extent, 0));
            extent.fill(8);
        }
        assert!(all_are(&neighbour.expect("pages"), 9));
        assert_clean(&pool);
        if kernel::version() >= (6, 1) {
            assert_eq!(
                advise(&extents[0], libc::MADV_NOHUGEPAGE).map_err(|e| e.to_string()),
                Ok(())
            );
            extents[0].advise(Advice::Discard).expect("it takes that");
            extents[0].fill(5);
            assert_eq!(advise(&extents[0], libc::MADV_HUGEPAGE).map_err(|e| e.to_string()), Ok(()));
            extents[0].advise(Advice::Collapse).expect("a huge page");
            assert!(is_huge(extents[0].page_range().start));
            assert!(all_are(&extents[0], 5));
        }
    }
}

/// What could take memory away that no touch brings back is refused, whatever the kernel would do.
#[test]
fn what_a_source_cannot_is_refused() {
    let pool = Pool::new(file(), Bytes(GIB));
    let mut extent = owner(&pool).chunk().expect("a chunk");
    extent.fill(7);
    assert!(is_refused(extent.advise(Advice::Discard)) && extent.advise(Advice::Cold).is_ok());
    assert!(all_are(&extent, 7));
    let guard = HugePages::reserve(&[(BLOCK, 2)]);
    require!(guard.is_ok(), "2 huge pages of 2 MiB");
    let pool = Pool::new(HugeTlb::two_mib().expect("huge pages"), Bytes(GIB));
    let mut extent = owner(&pool).chunk().expect("a chunk");
    extent.fill(7);
    for advice in [Advice::Cold, Advice::PageOut, Advice::Collapse, Advice::Discard] {
        let error = extent.advise(advice).expect_err("no huge page takes that").to_string();
        assert!(error.starts_with("2 MiB hugetlb pages cannot be "), "{error}");
    }
    assert!(all_are(&extent, 7));
}
