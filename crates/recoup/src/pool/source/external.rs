//! Memory that is no system RAM, or has no page metadata.

#![expect(unsafe_code, reason = "a promise about the file is taken here")]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use recoup_core::superchunk::Backing;
use recoup_core::units::SUPERCHUNK_BYTES;
use recoup_sys::units::PAGE;
use recoup_sys::{Bytes, Error, Result};

use super::files::{Gigabytes, Growth};
use super::{Arrival, Forking, Gigabyte, Kind, Metadata, Returns, Source};

/// A device's memory (DAX, a range of `/dev/mem`, a PCI function's), or any file that can be mapped, of which the
/// pool has whole gigabytes.
///
/// What it holds counts as somebody's: every owner gets it zeroed. After the pool's end it holds
/// what the last owners left in it, but for what was given back.
///
/// That no touch is met by SIGBUS for want of room holds for file systems that overwrite in place: tmpfs,
/// ext4, XFS without reflinks. One that copies on write (btrfs, files with shared extents) needs new room for
/// a write to what is there, and may have none. And only of tmpfs the kernel takes memory from an owner's
/// [node](crate::pool::OwnerOptions::node).
///
/// Memory without [struct pages](Metadata::None) is always there and never given back; advice, and pinning it
/// for a device, are refused. The kernel does not know who maps it: an [audit](crate::pool::Pool::audit)
/// finds what this process has mapped twice, but no other process's mapping.
#[derive(Debug)]
pub struct External {
    files: Gigabytes,
    kind: Kind,
}

/// Why a part of a file is no memory for a pool.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// There is no whole gigabyte in it.
    #[error(
        "bytes {:#x} to {:#x} of the file are less than a gigabyte, and a pool has whole ones: name a longer range",
        range.start.0, range.end.0
    )]
    TooShort {
        /// What was named.
        range: Range<Bytes>,
    },
    /// The kernel maps from multiples of a page only.
    #[error(
        "the range starts at {:#x}, which is no multiple of the {} bytes of a page: start at {:#x}",
        start.0, PAGE.0, start.0.next_multiple_of(PAGE.0)
    )]
    Unaligned {
        /// Where it starts.
        start: Bytes,
    },
    /// Past the end a touch would be met by SIGBUS.
    #[error(
        "the range ends at {:#x}, past the end of the file at {:#x}: lengthen the file, or name less of it",
        end.0, length.0
    )]
    PastEnd {
        /// Where the range ends.
        end: Bytes,
        /// How long the file or block device is.
        length: Bytes,
    },
    /// The kernel does not map it.
    #[error(
        "{0}: name a file or device that can be mapped, from a multiple of what its driver maps at a time \
         (/dev/dax: 2 MiB or 1 GiB); of /dev/mem what the kernel was told to leave alone (the boot parameter \
         memmap=), as root"
    )]
    Refused(#[from] Error),
}

impl External {
    /// The whole gigabytes of a range of a file or device, from its start on. Free extents of regular files are
    /// given back as holes, those of devices are kept. Of a file with holes its file
    /// system is asked for room whenever memory is handed out, so that none is missing later.
    ///
    /// A range that starts at a multiple of 2 MiB can be mapped in huge pages. A character device does not say
    /// how long it is: it has to have all of the range, or a touch is met by SIGBUS.
    ///
    /// # Errors
    /// [`Unfit`] says which ranges are none.
    ///
    /// # Safety
    /// As long as the pool lives, nobody else changes or shortens these bytes of the file; who gets it from
    /// the pool (a [`Gigabyte`] names it, and so does a guest's memory) changes those bytes alone that are
    /// his by agreement with their owner. They are memory, of which every byte keeps what was last written: of
    /// `/dev/mem` a range that nothing else uses, and no registers.
    pub unsafe fn new(file: File, range: Range<Bytes>) -> std::result::Result<Self, Unfit> {
        if !range.start.0.is_multiple_of(PAGE.0) {
            return Err(Unfit::Unaligned { start: range.start });
        }
        if range.end.0.saturating_sub(range.start.0) < SUPERCHUNK_BYTES {
            return Err(Unfit::TooShort { range });
        }
        let about = file.metadata().map_err(|e| Error::os("look at", "a file for a pool", e))?;
        let has_end = about.is_file() || about.file_type().is_block_device();
        if let Some(length) = has_end.then(|| length_of(&file)).transpose()?
            && range.end > length
        {
            return Err(Unfit::PastEnd { end: range.end, length });
        }
        let metadata = Metadata::of(file.as_fd(), range.start, Bytes(SUPERCHUNK_BYTES))?;
        // A device has all of it; a file may have holes, for which its file system has no room. But what has
        // no struct pages is a device's, also where it looks like a file (a PCI function's in sysfs).
        let (returns, arrival) = if about.is_file() && metadata == Metadata::StructPages {
            (Returns::Extents, Arrival::Fetched)
        } else {
            (Returns::Nothing, Arrival::OnTouch)
        };
        let kind = Kind {
            name: if returns == Returns::Extents {
                "an external file"
            } else {
                "an external device"
            },
            page: PAGE,
            backing: Backing::Used,
            arrival,
            returns,
            forking: Forking::Withheld,
            metadata,
        };
        Ok(Self { files: Gigabytes::new(file, range, None, Growth::Fixed), kind })
    }
}

/// How long a file or block device is, of which fstat(2) knows the former only.
fn length_of(mut file: &File) -> Result<Bytes> {
    let end = file.seek(SeekFrom::End(0));
    end.map(Bytes).map_err(|e| Error::os("find the end of", "a file for a pool", e))
}

// SAFETY: a `Gigabytes` hands out each gigabyte of its file once; that nobody else changes the file was
// promised to `new`.
unsafe impl Source for External {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn take(&self) -> Result<Gigabyte> {
        self.files.take()
    }

    fn put_back(&self, gigabyte: Gigabyte) {
        self.files.put_back(&gigabyte);
    }
}
