//! What the kernel itself says of a process, read without the code under test.

use std::fs;
use std::path::PathBuf;

use recoup_sys::{Features, Support};

/// The number of this process.
///
/// # Panics
/// Never: Linux's numbers fit.
#[must_use]
pub fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("a pid")
}

/// A field of `/proc/PID/status` in bytes, 0 where it is absent.
///
/// # Panics
/// If the process is gone.
#[must_use]
pub fn status_bytes(pid: i32, field: &str) -> u64 {
    sum_of_fields(&read(pid, "status"), field)
}

/// The sum of a field over all mappings of `/proc/PID/smaps`, in bytes.
///
/// # Panics
/// If the process is gone.
#[must_use]
pub fn smaps_bytes(pid: i32, field: &str) -> u64 {
    sum_of_fields(&read(pid, "smaps"), field)
}

/// The sum of a field over the mappings of smaps that overlap the addresses, in bytes.
///
/// # Panics
/// If the process is gone.
#[must_use]
pub fn smaps_bytes_in(pid: i32, addresses: std::ops::Range<u64>, field: &str) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in read(pid, "smaps").lines() {
        match mapping_of(line) {
            Some(mapping) => {
                inside = mapping.start < addresses.end && addresses.start < mapping.end;
            }
            None if inside => sum += sum_of_fields(line, field),
            None => {}
        }
    }
    sum
}

fn mapping_of(line: &str) -> Option<std::ops::Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

fn read(pid: i32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sum_of_fields(text: &str, field: &str) -> u64 {
    let value = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        (key == field).then_some(kib << 10)
    };
    text.lines().filter_map(value).sum()
}

/// A counter of `/proc/vmstat`, 0 where it is absent.
#[must_use]
pub fn vmstat(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// What the kernel keeps in struct pages, in pages (Linux 6.11); 0 where it does not count them.
#[must_use]
pub fn struct_pages() -> u64 {
    vmstat("nr_memmap_pages") + vmstat("nr_memmap_boot_pages")
}

/// Memory that is free or can be freed without swapping (`MemAvailable`), in bytes.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn available_bytes() -> u64 {
    meminfo_bytes("MemAvailable")
}

/// A field of `/proc/meminfo` in bytes, 0 where it is absent.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn meminfo_bytes(field: &str) -> u64 {
    sum_of_fields(&fs::read_to_string("/proc/meminfo").expect("/proc/meminfo"), field)
}

/// A number that sysfs tells of the host's pool of hugetlb pages of a size, like `free_hugepages`;
/// nothing where the kernel has no such pages.
///
/// # Panics
/// If it is no number.
#[must_use]
pub fn hugetlb(page_bytes: u64, file: &str) -> Option<u64> {
    let pool = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10);
    let text = fs::read_to_string(format!("{pool}/{file}")).ok()?;
    Some(text.trim().parse().expect("a number"))
}

/// The running kernel's version as (major, minor).
///
/// # Panics
/// If `uname -r` has no such form.
#[must_use]
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("uname -r: {release}"),
    }
}

/// Whether `PAGEMAP_SCAN` shows where page tables are, empty ones included: from Linux 6.7 to 7.2.
#[must_use]
pub fn shows_page_tables() -> bool {
    ((6, 7)..(7, 3)).contains(&version())
}

/// What this kernel can do, but for showing where empty page tables are: as Linux 7.3.
#[must_use]
pub fn with_tables_hidden(features: &Features) -> Features {
    Features { empty_tables: wished_away(), ..features.clone() }
}

/// The same features, but as if large discards freed no page tables, as before Linux 6.14.
#[must_use]
pub fn with_table_reclaim_hidden(features: &Features) -> Features {
    Features { table_reclaim: wished_away(), ..features.clone() }
}

fn wished_away() -> Support {
    Support::Missing { why: "a test's wish".to_owned(), remedy: "end the test" }
}

/// Whether a process may do all that recoup needs: root with its usual capabilities.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The directory in `/proc` of this process's thread with that name, if there is one.
#[must_use]
pub fn own_thread(name: &str) -> Option<PathBuf> {
    let mut threads = fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
    threads.find(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}
