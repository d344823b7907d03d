//! Free hugetlb pages for a test, given back whatever happens.

use std::fmt;

use recoup_sys::Bytes;
use recoup_sys::hugetlb::{DIRECTORY, size_name};

use crate::host::{HostSetting, Setting};
use crate::kernel;

/// Huge pages in the host's pools, and the one lock of host settings, until this is dropped, also by
/// a panic. After a SIGKILL the next guard gives them back.
///
/// Whoever drops it must have let go of all of its pages: it panics where more are in use or promised
/// than before.
#[derive(Debug)]
pub struct HugePages {
    /// The pools as they were found.
    before: Vec<Counts>,
    /// Puts their sizes back, after this was dropped.
    _setting: HostSetting,
}

/// What a pool shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    page_size: Bytes,
    total: u64,
    free: u64,
    reserved: u64,
    surplus: u64,
}

impl Counts {
    fn now(page_size: Bytes) -> Self {
        let count = |file| kernel::hugetlb(page_size.0, file).expect("a pool's file");
        Self {
            page_size,
            total: count("nr_hugepages"),
            free: count("free_hugepages"),
            reserved: count("resv_hugepages"),
            surplus: count("surplus_hugepages"),
        }
    }

    /// The setting that adds so many pages. What the file shows contains surplus pages, what is written
    /// to it does not: written back as it is, it would make them permanent.
    fn with(self, wanted: u64) -> Setting {
        let size = self.total - self.surplus;
        let value = if wanted == 0 { size } else { self.total + wanted };
        let path = format!("{DIRECTORY}/hugepages-{}kB/nr_hugepages", self.page_size.0 >> 10);
        Setting { path: path.into(), before: size.to_string(), value: value.to_string() }
    }

    fn in_use(self) -> u64 {
        self.total - self.free
    }
}

/// Fewer pages were to be had than a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    page_size: Bytes,
    wanted: u64,
    got: u64,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page_size, wanted, got } = self;
        write!(f, "{wanted} free huge pages of {}, {got} were to be had", size_name(*page_size))
    }
}

impl HugePages {
    /// Adds pages to the pools, of each size so many: `&[(BLOCK, 64), (PMD_TABLE_SPAN, 2)]`. With a
    /// count of 0 it only keeps a pool, to be put back after the test has changed its size.
    ///
    /// # Errors
    /// Where the machine cannot give as many.
    ///
    /// # Panics
    /// If a pool cannot be read or written, like for want of root.
    pub fn reserve(pages: &[(Bytes, u64)]) -> Result<Self, TooFew> {
        Self::reserve_with(&[], pages)
    }

    /// The same, after other settings were written: there can be but one guard.
    ///
    /// # Errors
    /// Where the machine cannot give as many.
    ///
    /// # Panics
    /// If a pool or setting cannot be read or written.
    pub fn reserve_with(settings: &[(&str, &str)], pages: &[(Bytes, u64)]) -> Result<Self, TooFew> {
        let unknown = |(size, _): &&(Bytes, u64)| kernel::hugetlb(size.0, "nr_hugepages").is_none();
        if let Some(&(page_size, wanted)) = pages.iter().find(unknown) {
            return Err(TooFew { page_size, wanted, got: 0 });
        }
        let mut before = Vec::new();
        let setting = HostSetting::set_as_found(|| {
            before.extend(pages.iter().map(|&(size, _)| Counts::now(size)));
            let others = settings.iter().map(|(path, value)| Setting::new(path, value));
            let pools = before.iter().zip(pages).map(|(pool, (_, wanted))| pool.with(*wanted));
            others.chain(pools).collect()
        });
        let guard = Self { before, _setting: setting };
        for (before, &(page_size, wanted)) in guard.before.iter().zip(pages) {
            let got = Counts::now(page_size).total.saturating_sub(before.total);
            if got < wanted {
                return Err(TooFew { page_size, wanted, got });
            }
        }
        Ok(guard)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for &before in &self.before {
            let now = Counts::now(before.page_size);
            let leaves_none = now.in_use() <= before.in_use() && now.reserved <= before.reserved;
            assert!(leaves_none, "the test leaves huge pages in use: {before:?}, {now:?}");
        }
    }
}
