//! Where a pool's memory comes from.
//!
//! A source hands out gigabytes, and says what kind of memory they are. It maps nothing and frees
//! nothing itself: what the pool does with a gigabyte follows from its [`Kind`]. So one more source
//! is one more file here, and needs no unsafe code but the promise of [`Source`].

#![expect(unsafe_code, reason = "a promise about gigabytes is asked for here")]

mod external;
mod files;
mod hugetlb;
mod thp;

pub use external::{External, Unfit};
pub use hugetlb::{HugeTlb, NoSuchPages};
pub use thp::Thp;

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

pub use recoup_core::superchunk::Backing;
pub use recoup_sys::addresses::Forking;
use recoup_sys::addresses::Memory;
pub use recoup_sys::hugetlb::Change;
pub use recoup_sys::metadata::Metadata;
pub use recoup_sys::{Bytes, Result};

/// Memory for pools, a gigabyte at a time.
///
/// # Safety
/// A gigabyte of a file is handed out to one at a time: not again before it was put back, and to nobody
/// who would change its bytes in another way. Else two owners would have the same memory, without a
/// line of unsafe code of theirs.
///
/// The [`kind`](Self::kind) is true, above all these two: [`backing`](Kind::backing), as what counts as
/// empty is not zeroed, and an owner would read what somebody else wrote; [`arrival`](Kind::arrival), as
/// what is not fetched from a store that may run dry is met by SIGBUS.
///
/// ```compile_fail,E0200
/// use recoup::pool::source::{Gigabyte, Kind, Result, Source};
///
/// #[derive(Debug)]
/// struct TheSameTwice(std::sync::Arc<std::fs::File>);
///
/// impl Source for TheSameTwice {
///     fn kind(&self) -> Kind { unimplemented!() }
///     fn take(&self) -> Result<Gigabyte> { unimplemented!() }
///     fn put_back(&self, _: Gigabyte) {}
/// }
/// ```
pub unsafe trait Source: fmt::Debug + Send + Sync {
    /// What kind of memory it is, always the same.
    fn kind(&self) -> Kind;

    /// Hands out a gigabyte that nobody has.
    ///
    /// # Errors
    /// There is none left, or it cannot be had.
    fn take(&self) -> Result<Gigabyte>;

    /// Takes a gigabyte back, which is no longer mapped.
    fn put_back(&self, gigabyte: Gigabyte);
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in errors and reports.
    pub name: &'static str,
    /// The unit in which the kernel provides it and takes it back.
    pub page: Bytes,
    /// What stands behind a gigabyte that was just handed out.
    pub backing: Backing,
    /// How a page comes to stand behind addresses.
    pub arrival: Arrival,
    /// What can be given back.
    pub returns: Returns,
    /// What a forked child gets of it.
    pub forking: Forking,
    /// What the kernel knows of its pages.
    pub metadata: Metadata,
}

/// How memory comes to stand behind addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// With the first touch, from the machine's free memory or a device that has all of it.
    OnTouch,
    /// From a store that may run dry, where a touch would be met by SIGBUS. So it is fetched when it
    /// is handed out.
    Fetched,
}

/// What goes back to the source before its gigabyte does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// Whatever is free, in pages of the kind but at least in chunks.
    Extents,
    /// Nothing: it is the source's own all the time.
    Nothing,
}

/// A gigabyte of memory that a pool may map.
#[derive(Clone, Debug)]
pub enum Gigabyte {
    /// Private anonymous memory.
    Private,
    /// Private hugetlb pages of this size.
    HugeTlb(Bytes),
    /// A gigabyte of a file.
    File {
        /// Which file.
        file: Arc<File>,
        /// Where it starts.
        offset: Bytes,
        /// The pages of a hugetlb file; `None` for others.
        huge: Option<Bytes>,
    },
}

impl Gigabyte {
    pub(super) fn memory(&self) -> Memory<'_> {
        match self {
            Self::Private => Memory::Private,
            Self::HugeTlb(size) => Memory::HugeTlb(*size),
            Self::File { file, offset, huge } => {
                Memory::File { file: file.as_fd(), offset: *offset, huge: *huge }
            }
        }
    }
}
