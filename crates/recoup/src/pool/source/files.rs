//! The gigabytes of a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use recoup_core::units::SUPERCHUNK_BYTES;
use recoup_sys::{Bytes, Errno, Error, Result};
use rustix::fs::{FallocateFlags, SealFlags};

use super::Gigabyte;

/// A file, cut into gigabytes.
#[derive(Debug)]
pub(super) struct Gigabytes {
    file: Arc<File>,
    /// The pages of a hugetlb file.
    huge: Option<Bytes>,
    growth: Growth,
    /// Where its first gigabyte starts.
    start: Bytes,
    numbers: Mutex<Numbers>,
}

/// Whether a file gets longer when all of it is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// As far as it is asked for. What is not handed out is empty.
    AsAskedFor,
    /// It has what it has.
    Fixed,
}

#[derive(Debug, Default)]
struct Numbers {
    /// Which gigabytes of the file are at hand.
    free: BTreeSet<u64>,
    /// How many gigabytes the file has.
    length: u64,
}

impl Gigabytes {
    /// The whole gigabytes of a range of a file, from its start on.
    pub(super) fn new(
        file: File,
        range: Range<Bytes>,
        huge: Option<Bytes>,
        growth: Growth,
    ) -> Self {
        let length = range.end.0.saturating_sub(range.start.0) / SUPERCHUNK_BYTES;
        let numbers = Mutex::new(Numbers { free: (0..length).collect(), length });
        Self { file: Arc::new(file), huge, growth, start: range.start, numbers }
    }

    /// An empty memfd, which nobody can shorten from now on: past the end of a file, touches are met by
    /// SIGBUS.
    pub(super) fn of_memfd(file: OwnedFd, huge: Option<Bytes>) -> Result<Self> {
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)
            .map_err(|e| Error::os("seal", "a memfd", e))?;
        Ok(Self::new(File::from(file), Bytes::ZERO..Bytes::ZERO, huge, Growth::AsAskedFor))
    }

    pub(super) fn take(&self) -> Result<Gigabyte> {
        let mut numbers = self.numbers();
        let number = match numbers.free.pop_first() {
            Some(number) => number,
            None if self.growth == Growth::AsAskedFor => {
                self.file
                    .set_len((numbers.length + 1) * SUPERCHUNK_BYTES)
                    .map_err(|e| Error::os("lengthen", "a memory file", e))?;
                numbers.length += 1;
                numbers.length - 1
            }
            None => {
                return Err(Error::os("find a free gigabyte in", "the file", Errno::NOSPC));
            }
        };
        let offset = Bytes(self.start.0 + number * SUPERCHUNK_BYTES);
        Ok(Gigabyte::File { file: Arc::clone(&self.file), offset, huge: self.huge })
    }

    pub(super) fn put_back(&self, gigabyte: &Gigabyte) {
        let Gigabyte::File { offset, .. } = gigabyte else { return };
        // A memfd keeps what nobody maps any more. One that the kernel does not empty is not handed
        // out again, as it counts as empty.
        if self.growth == Growth::Fixed || self.empty(*offset).is_ok() {
            self.numbers().free.insert((offset.0 - self.start.0) / SUPERCHUNK_BYTES);
        }
    }

    fn empty(&self, start: Bytes) -> rustix::io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, hole, start.0, SUPERCHUNK_BYTES)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
