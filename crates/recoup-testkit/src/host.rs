//! Host-wide settings that a test changes, put back whatever happens.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Where the lock is, which also keeps what has to be put back.
const JOURNAL: &str = "/run/recoup-host-settings.lock";

/// A setting that is changed until this is dropped, also by a panic.
///
/// Never two at once on a machine: the next one waits, in whatever process it is. If a process is
/// killed before it can put its setting back, the next one does it first: the journal says what.
#[derive(Debug)]
pub struct HostSetting {
    path: PathBuf,
    before: String,
    journal: File,
}

impl HostSetting {
    /// Writes `value` to the setting at `path`, a file below /sys or /proc/sys.
    ///
    /// # Panics
    /// If the setting cannot be read or written.
    #[must_use]
    pub fn set(path: impl AsRef<Path>, value: &str) -> Self {
        let path = path.as_ref().to_owned();
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
        let before = current(&path);
        write!(journal, "{}\n{before}", path.display()).expect("the journal can be written");
        let setting = Self { path, before, journal };
        write(&setting.path, value);
        setting
    }
}

impl Drop for HostSetting {
    fn drop(&mut self) {
        write(&self.path, &self.before);
        clear(&mut self.journal);
    }
}

/// Puts back what a killed process had changed.
fn put_back(journal: &mut File) {
    let mut text = String::new();
    journal.read_to_string(&mut text).expect("the journal can be read");
    if let Some((path, before)) = text.split_once('\n') {
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
fn current(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(text.trim(), |(word, _)| word).to_owned()
}

/// The file that switches transparent huge pages.
pub const THP_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
