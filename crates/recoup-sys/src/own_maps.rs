//! The mappings of this process, read in a stream: no allocation, no lock, for one who must do
//! without malloc (proc_pid_maps(5)).

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::{Errno, Result};

use crate::units::{PageIdx, PageRange};

/// Longer than any line: the kernel prints a path of at most a page.
const BUFFER: usize = 8192;

/// One mapping, as far as it matters to its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnMapping<'a> {
    /// The pages it covers.
    pub range: PageRange,
    /// The permissions as printed, such as `rw-p`.
    pub permissions: [u8; 4],
    /// The inode behind it, 0 for anonymous memory.
    pub inode: u64,
    /// The path, or the kernel's name in brackets, or nothing.
    pub name: &'a [u8],
}

impl OwnMapping<'_> {
    /// Whether it is private, anonymous, accessible, and nothing that the kernel made for itself:
    /// the heap and what mmap(2) gave, but no stack. Whether it is locked or watched is not shown.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        let named = |prefix: &[u8]| self.name.starts_with(prefix);
        let anonymous =
            self.inode == 0 && (self.name.is_empty() || self.name == b"[heap]" || named(b"[anon:"));
        anonymous && self.permissions[3] == b'p' && self.permissions[0] == b'r'
    }
}

/// This process's `maps`, open, with room to read it.
#[derive(Debug)]
pub struct OwnMaps {
    file: OwnedFd,
    buffer: [u8; BUFFER],
}

impl OwnMaps {
    /// Opens them. Stays usable by whoever shares the address space.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/self/maps", flags, Mode::empty())?;
        Ok(Self { file, buffer: [0; BUFFER] })
    }

    /// Shows all mappings to `visit`, by address, until it breaks. Those that change meanwhile may be
    /// shown as they were up to 8 KiB of text ago.
    ///
    /// Costs about 0.5 us a mapping.
    ///
    /// # Errors
    /// Those of read(2); `EBADMSG` for a line that cannot be understood.
    pub fn visit<B>(
        &mut self,
        mut visit: impl FnMut(&OwnMapping<'_>) -> ControlFlow<B>,
    ) -> Result<Option<B>> {
        rustix::fs::seek(&self.file, SeekFrom::Start(0))?;
        let mut filled = 0;
        loop {
            let free = self.buffer.get_mut(filled..).ok_or(Errno::BADMSG)?;
            let read = rustix::io::read(&self.file, free)?;
            filled += read;
            let text = self.buffer.get(..filled).ok_or(Errno::BADMSG)?;
            let mut used = 0;
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                let Some(line) = line.strip_suffix(b"\n") else { break };
                used += line.len() + 1;
                let mapping = parse(line).ok_or(Errno::BADMSG)?;
                if let ControlFlow::Break(value) = visit(&mapping) {
                    return Ok(Some(value));
                }
            }
            if read == 0 {
                return Ok(None);
            }
            if used == 0 && filled == BUFFER {
                return Err(Errno::BADMSG);
            }
            self.buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }
}

fn parse(line: &[u8]) -> Option<OwnMapping<'_>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut range = fields.next()?.splitn(2, |&byte| byte == b'-');
    let mut page = || number(range.next()?, 16).map(PageIdx::containing);
    let range = PageRange { start: page()?, end: page()? };
    let permissions = fields.next()?.try_into().ok()?;
    let (_offset, _device) = (fields.next()?, fields.next()?);
    let inode = number(fields.next()?, 10)?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    Some(OwnMapping { range, permissions, inode, name })
}

/// A whole field as a number.
pub(crate) fn number(digits: &[u8], base: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(text, base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_shows_what_the_whole_file_does() {
        let mut maps = OwnMaps::open().unwrap();
        let mut streamed = Vec::with_capacity(1000);
        maps.visit(|mapping| {
            streamed.push((mapping.range, mapping.inode));
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
        let own = crate::Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let whole = own.mappings().unwrap();
        let inodes = |range| whole.iter().find(|m| m.range == range).map(|m| m.inode);
        let same = streamed.iter().filter(|(range, inode)| inodes(*range) == Some(*inode)).count();
        // Other threads of the test map and unmap meanwhile.
        assert!(same > 10 && same * 10 > whole.len() * 8, "{same} of {}", whole.len());
    }

    #[test]
    fn only_private_anonymous_memory_is_ordinary() {
        let ordinary = |line: &str| parse(line.as_bytes()).unwrap().is_ordinary();
        assert!(ordinary("1000-2000 rw-p 00000000 00:00 0 "));
        assert!(ordinary("1000-2000 rw-p 00000000 00:00 0          [heap]"));
        assert!(!ordinary("1000-2000 rw-p 00000000 00:00 0          [stack]"));
        assert!(!ordinary("1000-2000 ---p 00000000 00:00 0 "));
        assert!(!ordinary("1000-2000 rw-s 00000000 00:01 7          /dev/zero (deleted)"));
        assert!(!ordinary("1000-2000 rw-p 00000000 00:01 7          /anon_hugepage (deleted)"));
        assert!(!ordinary("1000-2000 r--p 00000000 00:00 0          [vvar]"));
    }

    #[test]
    fn nonsense_is_no_mapping() {
        for line in ["", "x", "1000 rw-p 0 0 0", "1-2 rw 0 0:0 0", "1-2 rw-p 0 0:0 x"] {
            assert!(parse(line.as_bytes()).is_none(), "{line}");
        }
    }
}
