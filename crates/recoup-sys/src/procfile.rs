//! Small kernel files, read whole.
//!
//! Text is taken as lossy UTF-8: names in it (a `comm`, a path) are chosen by the processes that
//! are looked at, and none of them may hide itself by choosing bytes that are not UTF-8.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use procfs_core::FromRead;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// Reads a file to its end.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::os("read", path.display().to_string(), e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads one decimal number.
pub(crate) fn read_number(path: &Path) -> Result<u64> {
    let text = read_text(path)?;
    text.trim().parse().map_err(|e| Error::malformed(path.display().to_string(), e))
}

/// Opens `name` below an open directory, for reading.
pub(crate) fn open_at(directory: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads `name` below an open directory to its end.
pub(crate) fn read_at(directory: impl AsFd, name: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(open_at(directory, name)?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses what was read from `subject`.
pub(crate) fn parse<T: FromRead>(subject: &str, bytes: &[u8]) -> Result<T> {
    let text = String::from_utf8_lossy(bytes);
    T::from_read(text.as_bytes()).map_err(|e| Error::malformed(subject, e))
}

/// Reads and parses a file of `/proc`.
pub(crate) fn read_parsed<T: FromRead>(path: &Path) -> Result<T> {
    let subject = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| Error::os("read", &subject, e))?;
    parse(&subject, &bytes)
}

/// The values of a *flat keyed* file: a key, a space and a number on each line
/// (Documentation/admin-guide/cgroup-v2.rst). Lines of another form are passed over: kernels add
/// keys, never change them.
pub(crate) fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flat_keyed_skips_what_it_does_not_know() {
        let text = "anon 4096\nodd line here\nfile x\nkernel 7\n";
        let pairs: Vec<_> = flat_keyed(text).collect();
        assert_eq!(pairs, [("anon", 4096), ("kernel", 7)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_flat_keyed_parser_fail(text in "\\PC*") {
            flat_keyed(&text).for_each(drop);
        }
    }
}
