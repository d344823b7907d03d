//! The mappings of a process: `/proc/PID/maps` (proc_pid_maps(5)).
//!
//! Parsed here, from bytes, because paths in it are chosen by the processes looked at: a path that
//! is not UTF-8, or that imitates one of the kernel's own names, must not hide a process.

use crate::error::{Error, Result};
use crate::units::{Bytes, PAGE_SHIFT, PageIdx, PageRange};

/// One line of `/proc/PID/maps`: a virtual memory area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The pages it covers.
    pub range: PageRange,
    /// Whether writes stay with this process (`MAP_PRIVATE`).
    pub private: bool,
    /// Where in the file behind it its first byte is; 0 for anonymous memory.
    pub offset: Bytes,
    /// Device number of the file behind it as (major, minor); (0, 0) for anonymous memory.
    pub device: (u32, u32),
    /// Inode of the file behind it, 0 for anonymous memory.
    pub inode: u64,
    /// The path, or the kernel's name in brackets, or nothing for anonymous memory.
    pub name: String,
}

/// What lies behind a mapping, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory, the heap and stacks included.
    Anonymous,
    /// A file, shared memory or a memfd.
    File,
    /// A device's memory or the kernel's own pages (`[vvar]`, `[vdso]`): its page-table entries
    /// may have no pages that `pagemap` shows.
    Device,
}

impl Mapping {
    /// Which pages of the file behind it it shows: as if the file's first byte were at address 0.
    #[must_use]
    pub fn file_range(&self) -> PageRange {
        PageRange::starting_at(PageIdx::containing(self.offset.0), self.range.length())
    }

    /// What lies behind this mapping.
    #[must_use]
    pub fn backing(&self) -> Backing {
        if self.name.starts_with("[vvar") || self.name == "[vdso]" {
            return Backing::Device;
        }
        if self.inode == 0 {
            return Backing::Anonymous;
        }
        let ordinary = ["/dev/shm/", "/dev/zero", "/dev/hugepages/"];
        let device = self.name.starts_with("/dev/") || self.name.starts_with("anon_inode:");
        if device && !ordinary.iter().any(|path| self.name.starts_with(path)) {
            Backing::Device
        } else {
            Backing::File
        }
    }
}

/// Parses the contents of `/proc/PID/maps`, leaving out the gate area (`[vsyscall]`), which belongs
/// to no address space.
///
/// # Errors
/// [`Error::Malformed`] with the line that does not have the form of proc_pid_maps(5).
pub fn parse(subject: &str, contents: &[u8]) -> Result<Vec<Mapping>> {
    contents
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let line = String::from_utf8_lossy(line);
            parse_line(&line).ok_or_else(|| Error::malformed(subject, &line))
        })
        .filter(|mapping| !matches!(mapping, Ok(m) if m.name == "[vsyscall]"))
        .collect()
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?;
    let name = fields.next().unwrap_or("").trim_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let page = |text| Some(PageIdx(hex(text)? >> PAGE_SHIFT));
    Some(Mapping {
        range: PageRange { start: page(start)?, end: page(end)? },
        private: permissions.as_bytes().get(3) == Some(&b'p'),
        offset: Bytes(hex(offset)?),
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &[u8]) -> Mapping {
        parse("test", line).expect("a valid line").remove(0)
    }

    #[test]
    fn an_anonymous_mapping_has_no_name() {
        let mapping = one(b"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n");
        assert_eq!(mapping.range.length().0, 512);
        assert!(mapping.private);
        assert_eq!((mapping.backing(), mapping.name.as_str()), (Backing::Anonymous, ""));
    }

    #[test]
    fn a_path_keeps_its_spaces_and_odd_bytes_become_replacement_characters() {
        let mapping = one(b"1000-2000 r--s 00000000 fe:01 42     /tmp/a b\xff (deleted)\n");
        assert_eq!(mapping.name, "/tmp/a b\u{fffd} (deleted)");
        assert_eq!((mapping.device, mapping.private), ((0xfe, 1), false));
    }

    #[test]
    fn a_mapping_shows_a_range_of_its_file() {
        let mapping = one(b"7000-9000 rw-s 100003000 00:05 4    /dev/mem\n");
        assert_eq!(mapping.offset, Bytes((4 << 30) + 0x3000));
        let start = PageIdx((1 << 20) + 3);
        assert_eq!(mapping.file_range(), PageRange { start, end: PageIdx(start.0 + 2) });
    }

    #[test]
    fn names_that_imitate_the_kernels_are_only_names() {
        for name in ["/SYSV", "[stack:", "[anon:x"] {
            let mapping = one(format!("1000-2000 rw-p 00000000 00:01 9 {name}").as_bytes());
            assert_eq!(mapping.name, name);
        }
    }

    #[test]
    fn device_memory_is_told_from_shared_memory() {
        let backing =
            |name: &str| one(format!("0-1000 rw-s 0 00:05 7 {name}").as_bytes()).backing();
        assert_eq!(backing("/dev/dri/card0"), Backing::Device);
        assert_eq!(backing("anon_inode:kvm-vcpu:0"), Backing::Device);
        assert_eq!(backing("/dev/shm/x"), Backing::File);
        assert_eq!(backing("/memfd:x (deleted)"), Backing::File);
    }

    #[test]
    fn a_broken_line_is_an_error_that_shows_the_line() {
        let error = parse("/proc/1/maps", b"nonsense\n").expect_err("no mapping");
        assert!(error.to_string().contains("nonsense"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = parse("fuzz", &bytes);
        }

        #[test]
        fn what_the_kernel_prints_is_read_back(
            start in 0_u64..1 << 35, pages in 1_u64..1 << 20, inode: u64, shared: bool,
            name in "[a-zA-Z/\\[\\]: ().]{0,40}",
        ) {
            let range = PageRange::starting_at(PageIdx(start), crate::Pages(pages));
            let sharing = if shared { 's' } else { 'p' };
            let line = format!("{range} rw-{sharing} 0000f000 08:1f {inode}   {name}\n");
            let mapping = one(line.as_bytes());
            prop_assert_eq!(mapping.range, range);
            prop_assert_eq!(mapping.private, !shared);
            prop_assert_eq!(mapping.inode, inode);
            prop_assert_eq!(mapping.name, name.trim_start());
        }
    }
}
