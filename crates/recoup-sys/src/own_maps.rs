//! This process's own mappings, read without allocating: for code that runs where no allocator may
//! be used, such as the [companion](crate::companion).
//!
//! `/proc/self/maps` (proc_pid_maps(5)) is read a buffer at a time. A mapping that changes meanwhile
//! may be seen in either state or, if others move, missed; the kernel never shows a half of one.

#![expect(unsafe_code, reason = "a bare descriptor is closed here")]

use std::ffi::CStr;

use crate::bare;
use crate::units::{PageIdx, PageRange};

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnMap {
    /// The pages it covers.
    pub range: PageRange,
    /// May be read.
    pub readable: bool,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Changes belong to this process alone (`p`, not `s`).
    pub private: bool,
    /// The inode that is mapped; 0 if none is.
    pub inode: u64,
    /// What the kernel calls it.
    pub name: Name,
}

/// The kind of a mapping's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// None: anonymous memory.
    Absent,
    /// `[heap]`, by brk(2).
    Heap,
    /// `[stack]`, of the first thread.
    Stack,
    /// `[anon:...]`, named by prctl(2) (Linux 5.17).
    Anonymous,
    /// Another one in brackets: `[vdso]`, `[vvar]`, `[uprobes]`, ...
    Special,
    /// The path of a file, deleted ones and shared memory included.
    Path,
}

impl OwnMap {
    /// Whether it is ordinary memory: private, of no file and nothing special. Whether it is locked
    /// or watched by userfaultfd is not shown.
    #[must_use]
    pub fn is_private_anonymous(&self) -> bool {
        let ordinary = matches!(self.name, Name::Absent | Name::Heap | Name::Anonymous);
        self.private && self.inode == 0 && ordinary
    }
}

/// The mappings of this process, by address. Reads in pieces of the buffer's size; 4 KiB are good.
#[derive(Debug)]
pub struct OwnMaps<'b> {
    fd: i32,
    buffer: &'b mut [u8],
    next: usize,
    filled: usize,
}

/// `/proc/self/maps`
const MAPS: &CStr = c"/proc/self/maps";

impl<'b> OwnMaps<'b> {
    /// Opens them. Costs about 3 us, and 1 us a mapping to read.
    ///
    /// # Errors
    /// The bare `errno`, where `/proc` is not mounted.
    pub fn open(buffer: &'b mut [u8]) -> Result<Self, i32> {
        Ok(Self { fd: bare::open(MAPS)?, buffer, next: 0, filled: 0 })
    }

    /// The next byte; nothing at the end or after an error.
    fn byte(&mut self) -> Option<u8> {
        if self.next >= self.filled {
            self.next = 0;
            self.filled = bare::read(self.fd, self.buffer).unwrap_or(0);
        }
        let byte = self.buffer.get(self.next).copied().filter(|_| self.filled > 0)?;
        self.next = self.next.wrapping_add(1);
        Some(byte)
    }

    /// A number in this base, and the byte after it.
    fn number(&mut self, base: u32) -> Option<(u64, u8)> {
        let mut number = 0_u64;
        loop {
            let byte = self.byte()?;
            let Some(digit) = char::from(byte).to_digit(base) else {
                return Some((number, byte));
            };
            number = number.wrapping_mul(u64::from(base)).wrapping_add(u64::from(digit));
        }
    }

    /// The class of the name at the end of a line, and the line's end.
    fn name(&mut self, after_inode: u8) -> Name {
        let mut begin = [0_u8; 7];
        let mut length = 0_usize;
        let mut byte = after_inode;
        while byte != b'\n' {
            if length > 0 || byte != b' ' {
                if let Some(place) = begin.get_mut(length) {
                    *place = byte;
                }
                length = length.saturating_add(1);
            }
            match self.byte() {
                Some(next) => byte = next,
                None => break,
            }
        }
        match (length, &begin) {
            (0, _) => Name::Absent,
            (6, b"[heap]\0") => Name::Heap,
            (7, b"[stack]") => Name::Stack,
            _ if begin.starts_with(b"[anon:") => Name::Anonymous,
            _ if begin.starts_with(b"[") => Name::Special,
            _ => Name::Path,
        }
    }

    /// The four letters of the permissions, and the blank after them.
    fn permissions(&mut self) -> Option<[u8; 4]> {
        let letters = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
        self.byte()?;
        Some(letters)
    }
}

impl Iterator for OwnMaps<'_> {
    type Item = OwnMap;

    fn next(&mut self) -> Option<OwnMap> {
        let (start, _) = self.number(16)?;
        let (end, _) = self.number(16)?;
        let [read, write, execute, private] = self.permissions()?;
        let _offset = self.number(16)?;
        let _major = self.number(16)?;
        let _minor = self.number(16)?;
        let (inode, after) = self.number(10)?;
        let name = self.name(after);
        Some(OwnMap {
            range: PageRange { start: PageIdx::containing(start), end: PageIdx::containing(end) },
            readable: read == b'r',
            writable: write == b'w',
            executable: execute == b'x',
            private: private == b'p',
            inode,
            name,
        })
    }
}

impl Drop for OwnMaps<'_> {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and known here only.
        unsafe { bare::close(self.fd) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;
    use crate::units::{Bytes, Pages};
    use crate::{Process, maps};

    /// Mappings that other tests' threads don't change meanwhile: those of files.
    fn of_files(maps: impl Iterator<Item = OwnMap>) -> Vec<OwnMap> {
        maps.filter(|map| map.inode != 0).collect()
    }

    #[test]
    fn every_buffer_size_reads_the_same() {
        let mut page = [0; 4096];
        let whole = of_files(OwnMaps::open(&mut page).expect("maps"));
        assert!(whole.len() > 3);
        for size in [1, 2, 7, 100] {
            let mut buffer = vec![0; size];
            assert_eq!(of_files(OwnMaps::open(&mut buffer).expect("maps")), whole);
        }
    }

    #[test]
    fn it_agrees_with_the_parser_that_allocates() {
        let theirs: Vec<maps::Mapping> = Process::own().expect("self").mappings().expect("maps");
        let mut page = [0; 4096];
        let ours = of_files(OwnMaps::open(&mut page).expect("maps"));
        assert!(ours.iter().all(|map| theirs.iter().any(|other| other.range == map.range)));
    }

    #[test]
    fn own_memory_is_private_and_anonymous() {
        let region = Region::new(Bytes(64 << 20)).expect("memory");
        let page = region.pages().start + Pages(5);
        let mut buffer = [0; 4096];
        let mut maps = OwnMaps::open(&mut buffer).expect("maps");
        let map = maps.find(|map| map.range.contains(page)).expect("mapped");
        assert!(map.is_private_anonymous() && map.readable && !map.executable, "{map:?}");
        let mut buffer = [0; 4096];
        let maps = OwnMaps::open(&mut buffer).expect("maps");
        let special: Vec<Name> = maps.map(|map| map.name).filter(|n| *n == Name::Special).collect();
        assert!(!special.is_empty(), "the vdso");
    }

    #[test]
    fn an_empty_buffer_shows_nothing() {
        assert_eq!(OwnMaps::open(&mut []).expect("maps").next(), None);
    }
}
