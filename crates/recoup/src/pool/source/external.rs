//! Memory that is no system RAM, or has no page metadata.

#![expect(unsafe_code, reason = "a promise about the file is taken here")]

use std::fs::File;

use recoup_core::superchunk::Backing;
use recoup_sys::units::PAGE;
use recoup_sys::{Bytes, Error, Result};

use super::files::{Gigabytes, Growth};
use super::{Arrival, Forking, Gigabyte, Kind, Returns, Source};

/// A DAX device, or any file that can be mapped, of which the pool has the whole gigabytes.
///
/// What it holds counts as somebody's: every owner gets it zeroed. After the pool's end it holds
/// what the last owners left in it, but for what was given back.
///
/// That no touch is met by SIGBUS for want of room holds for file systems that overwrite in place: tmpfs,
/// ext4, XFS without reflinks. One that copies on write (btrfs, files with shared extents) needs new room for
/// a write to what is there, and may have none. And only of tmpfs the kernel takes memory from an owner's
/// [node](crate::pool::OwnerOptions::node).
#[derive(Debug)]
pub struct External {
    files: Gigabytes,
    returns: Returns,
    arrival: Arrival,
}

impl External {
    /// The first `length` bytes of a file or device, rounded down to gigabytes. Free extents of
    /// regular files are given back as holes, those of devices are kept. Of a file with holes its file
    /// system is asked for room whenever memory is handed out, so that none is missing later.
    ///
    /// # Errors
    /// Those of fstat(2).
    ///
    /// # Safety
    /// As long as the pool lives, nobody else changes or shortens these bytes of the file; who gets it from
    /// the pool (a [`Gigabyte`] names it, and so does a guest's memory) changes those bytes alone that are
    /// his by agreement with their owner.
    pub unsafe fn new(file: File, length: Bytes) -> Result<Self> {
        let about = file.metadata().map_err(|e| Error::os("look at", "a file for a pool", e))?;
        // A device does not say how long it is, and has all of that; a file may have holes, for which its
        // file system has no room.
        let (returns, arrival, length) = if about.is_file() {
            (Returns::Extents, Arrival::Fetched, length.min(Bytes(about.len())))
        } else {
            (Returns::Nothing, Arrival::OnTouch, length)
        };
        Ok(Self { files: Gigabytes::new(file, length, None, Growth::Fixed), returns, arrival })
    }
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its file once; that nobody else changes the file was
// promised to `new`.
unsafe impl Source for External {
    fn kind(&self) -> Kind {
        Kind {
            name: "an external file",
            page: PAGE,
            backing: Backing::Used,
            arrival: self.arrival,
            returns: self.returns,
            forking: Forking::Withheld,
        }
    }

    fn take(&self) -> Result<Gigabyte> {
        self.files.take()
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        self.files.put_back(&gigabyte);
    }
}
