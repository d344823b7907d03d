//! Host-wide settings that a test changes, put back whatever happens.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Where the lock is, which also keeps what has to be put back.
const JOURNAL: &str = "/run/recoup-host-settings.lock";

/// Settings that are changed until this is dropped, also by a panic.
///
/// Never two of these at once on a machine: the next one waits, in whatever process it is. If a
/// process is killed before it can put its settings back, the next one does it first: the journal
/// says what.
#[derive(Debug)]
pub struct HostSetting {
    settings: Vec<Setting>,
    journal: File,
}

/// The file that switches transparent huge pages.
pub const THP_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// How many absent pages khugepaged fills in to make a huge page again.
pub const MAX_PTES_NONE: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";

impl HostSetting {
    /// Switches transparent huge pages (`always`, `madvise`, `never`), and keeps khugepaged from
    /// filling the holes that a test makes.
    #[must_use]
    pub fn huge_pages(enabled: &str) -> Self {
        Self::set_all(&[(THP_ENABLED, enabled), (MAX_PTES_NONE, "0")])
    }

    /// Writes `value` to the setting at `path`, a file below /sys or /proc/sys.
    ///
    /// # Panics
    /// If the setting cannot be read or written.
    #[must_use]
    pub fn set(path: &str, value: &str) -> Self {
        Self::set_all(&[(path, value)])
    }

    /// Writes several settings.
    ///
    /// # Panics
    /// If one cannot be read or written.
    #[must_use]
    pub fn set_all(settings: &[(&str, &str)]) -> Self {
        Self::set_as_found(|| {
            settings.iter().map(|(path, value)| Setting::new(path, value)).collect()
        })
    }

    /// Writes settings to values that follow from what is found: `settings` is asked once nobody else
    /// changes any.
    pub(crate) fn set_as_found(settings: impl FnOnce() -> Vec<Setting>) -> Self {
        let mut journal = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(JOURNAL)
            .expect("the lock file of host settings can be made");
        rustix::fs::flock(&journal, rustix::fs::FlockOperation::LockExclusive)
            .expect("the lock file of host settings can be locked");
        put_back(&mut journal);
        let settings = settings();
        for Setting { path, before, .. } in &settings {
            writeln!(journal, "{}={before}", path.display()).expect("the journal can be written");
        }
        let guard = Self { settings, journal };
        guard.settings.iter().for_each(|setting| write(&setting.path, &setting.value));
        guard
    }
}

/// What is to be changed.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The file.
    pub(crate) path: PathBuf,
    /// What to write to have it again as it was: for some files not what they show.
    pub(crate) before: String,
    /// What to write.
    pub(crate) value: String,
}

impl Setting {
    /// One that shows what has to be written to it.
    pub(crate) fn new(path: &str, value: &str) -> Self {
        Self { path: path.into(), before: current(path), value: value.to_owned() }
    }
}

impl Drop for HostSetting {
    fn drop(&mut self) {
        self.settings.iter().for_each(|setting| write(&setting.path, &setting.before));
        clear(&mut self.journal);
    }
}

/// Puts back what a killed process had changed.
fn put_back(journal: &mut File) {
    let mut text = String::new();
    journal.read_to_string(&mut text).expect("the journal can be read");
    for (path, before) in text.lines().filter_map(|line| line.split_once('=')) {
        write(Path::new(path), before);
    }
    clear(journal);
}

fn clear(journal: &mut File) {
    journal.set_len(0).expect("the journal can be emptied");
    journal.rewind().expect("the journal can be rewound");
}

fn write(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|e| panic!("{} = {value}: {e}", path.display()));
}

/// The value of a setting; of a choice like `always [madvise] never`, the chosen word.
fn current(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(text.trim(), |(word, _)| word).to_owned()
}
