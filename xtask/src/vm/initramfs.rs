//! An initramfs in the kernel's "newc" cpio format
//! (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed: the emulated
//! processor would take longer to unpack it than QEMU to load it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file for the guest, which may be run there.
#[derive(Clone, Debug)]
pub(crate) struct GuestFile {
    path: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// A file of the host.
    Of(PathBuf),
    Text(String),
}

impl GuestFile {
    /// A program of the host.
    pub(crate) fn program(path: &str, from: &Path) -> Self {
        Self { path: path.to_owned(), content: Content::Of(from.to_owned()) }
    }

    /// A script with this text.
    pub(crate) fn script(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), content: Content::Text(text.to_owned()) }
    }

    /// Where it is in the guest, without the leading slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Where it is on the host, if it is a program.
    pub(crate) fn source(&self) -> Option<&Path> {
        match &self.content {
            Content::Of(path) => Some(path),
            Content::Text(_) => None,
        }
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        match &self.content {
            Content::Of(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
            Content::Text(text) => Ok(text.clone().into_bytes()),
        }
    }
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Writes an initramfs of directories and files.
pub(crate) fn write(
    mut out: impl Write,
    directories: &[&str],
    files: &[GuestFile],
) -> anyhow::Result<()> {
    let mut inode = 0;
    for directory in directories {
        inode += 1;
        entry(&mut out, inode, directory, DIRECTORY, &[])?;
    }
    for file in files {
        inode += 1;
        entry(&mut out, inode, &file.path, PROGRAM, &file.read()?)?;
    }
    entry(&mut out, 0, "TRAILER!!!", 0, &[])?;
    Ok(out.flush()?)
}

/// One header, name and content, each padded to four bytes.
fn entry(out: &mut impl Write, inode: u32, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let too_large =
        |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is over 4 GiB"));
    let size = u32::try_from(data.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    // Inode, mode, uid, gid, links, mtime, size, device and its node (2 + 2), name's size, checksum.
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08x}"));
    }
    header.push_str(name);
    header.push('\0');
    pad(out, header.as_bytes())?;
    pad(out, data)
}

fn pad(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.write_all(&[0; 3][..padding])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_padded_headers_names_and_contents() {
        let mut bytes = Vec::new();
        let files = [GuestFile::script("init", "#!/bin/sh\n"), GuestFile::script("bin/x", "")];
        write(&mut bytes, &["bin"], &files).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        // Headers are 110 bytes: with "bin" and its zero byte, 114 and 2 of padding.
        assert!(text.starts_with("07070100000001000041ed"));
        assert_eq!(&text[110..116], "bin\0\0\0");
        assert_eq!(&text[116..122], "070701");
        assert!(text.contains("init\0\0#!/bin/sh\n\0\x00070701"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }
}
