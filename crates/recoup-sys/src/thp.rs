//! Transparent huge pages of the host: sizes, settings, counters
//! (Documentation/admin-guide/mm/transhuge.rst).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::procfile;
use crate::units::{Bytes, PAGE_SHIFT, PMD_ORDER};

/// Where the settings are.
pub const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";

/// Settings and counters, read from a directory of this layout.
#[derive(Clone, Debug)]
pub struct Thp {
    directory: PathBuf,
}

/// One size of huge page, with its counters where the kernel keeps them (6.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Binary logarithm of its base pages.
    pub order: u8,
    /// Anonymous huge pages of this size that exist now.
    pub anonymous: Option<u64>,
    /// Those of them that wait to be split because a part of them is unmapped.
    pub partially_mapped: Option<u64>,
    /// Whether new ones may come to be: not set to `never`.
    pub enabled: bool,
}

impl Thp {
    /// The running kernel's.
    #[must_use]
    pub fn of_host() -> Self {
        Self::in_directory(Path::new(DIRECTORY))
    }

    /// Those of a directory of the same layout.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The chosen word of `enabled`: `always`, `madvise` or `never`.
    ///
    /// # Errors
    /// Where the kernel has no transparent huge pages.
    pub fn enabled(&self) -> Result<String> {
        let text = procfile::read_text(&self.directory.join("enabled"))?;
        Ok(chosen(&text).to_owned())
    }

    /// Every size for which anonymous huge pages can exist, smallest first. Before 6.8 there is
    /// only the PMD size.
    #[must_use]
    pub fn sizes(&self) -> Vec<Size> {
        let inherited = self.enabled().unwrap_or_default();
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut sizes: Vec<Size> =
            entries.filter_map(|entry| Self::size(&entry.path(), &inherited)).collect();
        if sizes.is_empty() && self.enabled().is_ok() {
            let only =
                Size { order: PMD_ORDER, anonymous: None, partially_mapped: None, enabled: true };
            sizes.push(only);
        }
        sizes.sort_unstable_by_key(|size| size.order);
        sizes
    }

    /// The orders of the anonymous huge pages that may exist on this host now, smallest first: what
    /// a search for holes has to consider. Where the kernel counts them, the count decides; else
    /// the setting, and the PMD size always.
    #[must_use]
    pub fn orders_in_use(&self) -> Vec<u8> {
        let in_use = |size: &Size| match size.anonymous {
            Some(count) => count > 0,
            None => size.enabled || size.order == PMD_ORDER,
        };
        self.sizes().iter().filter(|size| in_use(size)).map(|size| size.order).collect()
    }

    fn size(directory: &Path, inherited: &str) -> Option<Size> {
        let name = directory.file_name()?.to_str()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = Bytes::from_kib(kib).0 >> PAGE_SHIFT;
        let order = u8::try_from(pages.checked_ilog2()?).ok()?;
        let count = |name: &str| procfile::read_number(&directory.join("stats").join(name)).ok();
        // Absent for sizes that only files can have.
        let enabled = procfile::read_text(&directory.join("enabled")).ok()?;
        Some(Size {
            order,
            anonymous: count("nr_anon"),
            partially_mapped: count("nr_anon_partially_mapped"),
            enabled: match chosen(&enabled) {
                "inherit" => inherited != "never",
                own => own != "never",
            },
        })
    }
}

/// The word in brackets of a setting like `always [madvise] never`.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, contents) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, contents).expect("a file");
        }
        root
    }

    #[test]
    fn a_size_without_huge_pages_is_not_in_use() {
        let root = host(&[
            ("enabled", "always [madvise] never"),
            ("hugepages-64kB/enabled", "[always] inherit madvise never"),
            ("hugepages-64kB/stats/nr_anon", "0"),
            ("hugepages-2048kB/enabled", "always [inherit] madvise never"),
            ("hugepages-2048kB/stats/nr_anon", "7"),
            ("hugepages-2048kB/stats/nr_anon_partially_mapped", "2"),
        ]);
        let thp = Thp::in_directory(root.path());
        assert_eq!(thp.orders_in_use(), [9]);
        assert_eq!(thp.sizes()[1].partially_mapped, Some(2));
        assert_eq!(thp.enabled().expect("the setting"), "madvise");
    }

    #[test]
    fn without_counters_the_setting_decides_and_the_pmd_size_is_always_considered() {
        let root = host(&[
            ("enabled", "always madvise [never]"),
            ("hugepages-16kB/enabled", "[always] inherit madvise never"),
            ("hugepages-32kB/enabled", "always inherit madvise [never]"),
            ("hugepages-2048kB/enabled", "always inherit madvise [never]"),
        ]);
        assert_eq!(Thp::in_directory(root.path()).orders_in_use(), [2, 9]);
    }

    #[test]
    fn an_old_kernel_has_only_the_pmd_size_and_none_has_none() {
        let old = host(&[("enabled", "[always] madvise never")]);
        assert_eq!(Thp::in_directory(old.path()).orders_in_use(), [PMD_ORDER]);
        let none = host(&[("other", "")]);
        assert!(Thp::in_directory(none.path()).orders_in_use().is_empty());
    }
}
