//! The memory controller of cgroups, version 1 and 2
//! (Documentation/admin-guide/cgroup-v1/memory.rst, .../cgroup-v2.rst).

use std::collections::HashMap;
use std::fs;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use procfs_core::process::MountInfos;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::procfile;
use crate::units::{Bytes, PAGE_SHIFT};

/// Which interface a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `memory.usage_in_bytes`
    V1,
    /// `memory.current`
    V2,
}

/// The hierarchy that accounts memory on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    version: Version,
    root: PathBuf,
    /// The cgroup that is mounted there: the hierarchy's root, unless bind-mounted.
    mounted_part: PathBuf,
}

impl Hierarchy {
    /// Finds it among the mounts.
    ///
    /// # Errors
    /// Where `/proc/self/mountinfo` cannot be read. Nothing where no hierarchy has the controller.
    pub fn find() -> Result<Option<Self>> {
        let mounts: MountInfos = procfile::read_parsed(Path::new("/proc/self/mountinfo"))?;
        Ok(mounts.iter().find_map(|mount| {
            let version = match mount.fs_type.as_str() {
                "cgroup" if mount.super_options.contains_key("memory") => Version::V1,
                "cgroup2" if has_memory_controller(&mount.mount_point) => Version::V2,
                _ => return None,
            };
            let mounted_part = PathBuf::from(&mount.root);
            Some(Self { version, root: mount.mount_point.clone(), mounted_part })
        }))
    }

    /// Which interface it has.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The cgroup at `path`: a directory of the mounted hierarchy, or a path within it.
    ///
    /// # Errors
    /// Where there is no such cgroup, or it is of another hierarchy: its charge cannot be read.
    pub fn open(&self, path: &Path) -> Result<Cgroup> {
        let below_root = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let given = if path.starts_with(&self.root) { path.to_owned() } else { below_root };
        let directory = fs::canonicalize(&given)
            .map_err(|e| Error::os("find the cgroup", path.display().to_string(), e))?;
        let cgroup = Cgroup { version: self.version, directory };
        if cgroup.directory != self.root {
            cgroup.charge()?;
        }
        Ok(cgroup)
    }

    /// Makes a cgroup right below the root, which is removed when the guard is dropped.
    ///
    /// # Errors
    /// Where it may not be made, or its memory is not accounted (cgroup v2 without `+memory` in the
    /// root's `cgroup.subtree_control`).
    pub fn create(&self, name: &str) -> Result<OwnCgroup> {
        let directory = self.root.join(name);
        fs::create_dir(&directory)
            .map_err(|e| Error::os("make the cgroup", directory.display().to_string(), e))?;
        let own = OwnCgroup(Cgroup { version: self.version, directory });
        own.charge()?;
        Ok(own)
    }

    /// The cgroup that a process is in.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] once it has ended. Nothing if it is outside of what is mounted.
    pub fn of_process(&self, process: &Process) -> Result<Option<Cgroup>> {
        let groups = process.cgroups()?;
        let ours = groups.0.iter().find(|group| match self.version {
            Version::V1 => group.controllers.iter().any(|name| name == "memory"),
            Version::V2 => group.hierarchy == 0,
        });
        let directory = ours.and_then(|group| self.directory_of(Path::new(&group.pathname)));
        let inside = directory.filter(|path| path.is_dir());
        Ok(inside.map(|directory| Cgroup { version: self.version, directory }))
    }
}

impl Hierarchy {
    /// A cgroup and those above it, as far as they are mounted here: each can limit it.
    #[must_use]
    pub fn with_ancestors(&self, cgroup: &Cgroup) -> Vec<Cgroup> {
        let mounted = cgroup.directory.ancestors().take_while(|path| path.starts_with(&self.root));
        mounted.map(|path| Cgroup { version: self.version, directory: path.to_owned() }).collect()
    }

    /// Where the cgroup with this path in the hierarchy is seen here: nowhere, if it is outside of
    /// the part that is mounted or of this process's cgroup namespace.
    fn directory_of(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.mounted_part).ok()?;
        let outside = below.components().any(|part| part == Component::ParentDir);
        (!outside).then(|| self.root.join(below))
    }
}

fn has_memory_controller(root: &Path) -> bool {
    let controllers = procfile::read_text(&root.join("cgroup.controllers"));
    controllers.is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    version: Version,
    directory: PathBuf,
}

/// A cgroup that was made here, and is removed when dropped. Its processes must have ended by then.
#[derive(Debug)]
pub struct OwnCgroup(Cgroup);

impl Deref for OwnCgroup {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // A cgroup is busy until the kernel is done with the last process that was in it.
        for _ in 0..100 {
            if fs::remove_dir(&self.0.directory).is_ok() || !self.0.directory.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a cgroup's charge is made of, as its `memory.stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Composition {
    /// Anonymous memory that is mapped.
    pub anonymous: Bytes,
    /// Page cache, shared memory included.
    pub file: Bytes,
    /// Memory of the kernel itself: stacks, slab, page tables, sockets' buffers.
    pub kernel: Bytes,
}

impl Cgroup {
    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// What is charged to it and its children now.
    ///
    /// # Errors
    /// Where its charge cannot be read: the root of a v2 hierarchy has none.
    pub fn charge(&self) -> Result<Bytes> {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        procfile::read_number(&self.directory.join(file)).map(Bytes)
    }

    /// What the charge is made of, its children's included.
    ///
    /// # Errors
    /// Where `memory.stat` cannot be read.
    pub fn composition(&self) -> Result<Composition> {
        let text = procfile::read_text(&self.directory.join("memory.stat"))?;
        let stat: HashMap<&str, u64> = procfile::flat_keyed(&text).collect();
        let get = |key: &str| Bytes(stat.get(key).copied().unwrap_or(0));
        Ok(match self.version {
            Version::V1 => Composition {
                anonymous: get("total_rss"),
                file: get("total_cache"),
                kernel: procfile::read_number(&self.directory.join("memory.kmem.usage_in_bytes"))
                    .map(Bytes)
                    .unwrap_or_default(),
            },
            Version::V2 => {
                // The sum `kernel` exists since Linux 5.18.
                let parts = ["kernel_stack", "pagetables", "percpu", "slab"].map(get);
                let kernel = get("kernel").max(parts.into_iter().sum());
                Composition {
                    anonymous: get("anon"),
                    file: get("file"),
                    kernel: kernel + get("sock"),
                }
            }
        })
    }

    /// The most that may be charged to it and its children: `memory.limit_in_bytes` (v1), or the
    /// lower one of `memory.max` and `memory.high` (v2). Nothing if there is no limit.
    ///
    /// # Errors
    /// Where a limit that exists cannot be read.
    pub fn limit(&self) -> Result<Option<Bytes>> {
        let files: &[&str] = match self.version {
            Version::V1 => &["memory.limit_in_bytes"],
            Version::V2 => &["memory.max", "memory.high"],
        };
        let mut lowest = None;
        for file in files {
            let path = self.directory.join(file);
            // The root of a v2 hierarchy has none of these files.
            let limit = if path.exists() { limit_in(&path)? } else { None };
            lowest = [lowest, limit].into_iter().flatten().min();
        }
        Ok(lowest)
    }

    /// Page cache of it and its children that was not used lately: the kernel takes that first when a
    /// limit is near.
    ///
    /// # Errors
    /// Where `memory.stat` cannot be read.
    pub fn inactive_file(&self) -> Result<Bytes> {
        let text = procfile::read_text(&self.directory.join("memory.stat"))?;
        let key = match self.version {
            Version::V1 => "total_inactive_file",
            Version::V2 => "inactive_file",
        };
        let value = procfile::flat_keyed(&text).find(|(name, _)| *name == key);
        Ok(Bytes(value.map_or(0, |(_, bytes)| bytes)))
    }

    /// Moves a process into it. What is charged elsewhere already stays there.
    ///
    /// # Errors
    /// Where the process is gone or may not be moved.
    pub fn add(&self, pid: i32) -> Result<()> {
        let path = self.directory.join("cgroup.procs");
        fs::write(&path, pid.to_string())
            .map_err(|e| Error::os("move a process into", path.display().to_string(), e))
    }

    /// The numbers of the processes in it, not those of its children.
    ///
    /// # Errors
    /// Where `cgroup.procs` cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let path = self.directory.join("cgroup.procs");
        let text = procfile::read_text(&path)?;
        let number =
            |line: &str| line.parse().map_err(|e| Error::malformed(path.display().to_string(), e));
        text.lines().map(number).collect()
    }

    /// This cgroup and all below it.
    #[must_use]
    pub fn with_descendants(&self) -> Vec<Self> {
        let mut found = vec![self.clone()];
        let mut next = 0;
        while let Some(parent) = found.get(next).cloned() {
            next += 1;
            let entries = fs::read_dir(&parent.directory).into_iter().flatten().flatten();
            let children =
                entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(children.map(|e| Self { version: self.version, directory: e.path() }));
        }
        found
    }
}

/// A limit; v2 says `max` where there is none, v1 a number beyond all memory.
fn limit_in(path: &Path) -> Result<Option<Bytes>> {
    /// `PAGE_COUNTER_MAX` in bytes, rounded down: what v1 says of a cgroup without a limit.
    const NO_LIMIT: u64 = (i64::MAX as u64) >> PAGE_SHIFT << PAGE_SHIFT;
    let text = procfile::read_text(path)?;
    if text.trim() == "max" {
        return Ok(None);
    }
    let limit: u64 =
        text.trim().parse().map_err(|e| Error::malformed(path.display().to_string(), e))?;
    Ok((limit < NO_LIMIT).then_some(Bytes(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(version: Version, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (name, contents) in files {
            fs::write(root.path().join(name), contents).expect("a file");
        }
        let directory = root.path().to_owned();
        (root, Cgroup { version, directory })
    }

    #[test]
    fn the_charge_comes_from_the_file_of_its_version() {
        let (_v1, v1) = cgroup(Version::V1, &[("memory.usage_in_bytes", "4096\n")]);
        let (_v2, v2) = cgroup(Version::V2, &[("memory.current", "8192\n")]);
        assert_eq!(v1.charge().expect("a charge"), Bytes(4096));
        assert_eq!(v2.charge().expect("a charge"), Bytes(8192));
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let (_root, group) = cgroup(Version::V2, &[]);
        let error = group.charge().expect_err("no file");
        assert!(error.to_string().contains("memory.current"), "{error}");
    }

    #[test]
    fn a_cgroup_outside_of_what_is_mounted_is_nowhere() {
        let hierarchy = |part: &str| Hierarchy {
            version: Version::V2,
            root: PathBuf::from("/sys/fs/cgroup"),
            mounted_part: PathBuf::from(part),
        };
        let found = |part: &str, path: &str| hierarchy(part).directory_of(Path::new(path));
        assert_eq!(found("/", "/a/b"), Some(PathBuf::from("/sys/fs/cgroup/a/b")));
        assert_eq!(found("/pod", "/pod/b"), Some(PathBuf::from("/sys/fs/cgroup/b")));
        assert_eq!(found("/pod", "/other"), None);
        assert_eq!(found("/", "/../../etc"), None);
    }

    #[test]
    fn the_kernels_part_is_summed_up_where_it_is_not_told() {
        let old = "anon 1\nfile 2\nkernel_stack 4\npagetables 8\npercpu 16\nsock 32\nslab 64\n";
        let (_old, old) = cgroup(Version::V2, &[("memory.stat", old)]);
        assert_eq!(old.composition().expect("parts").kernel, Bytes(4 + 8 + 16 + 32 + 64));
        let (_new, new) = cgroup(Version::V2, &[("memory.stat", "kernel 100\nslab 64\nsock 3\n")]);
        assert_eq!(new.composition().expect("parts").kernel, Bytes(103));
    }

    #[test]
    fn the_lowest_limit_counts_and_none_is_none() {
        let (_v1, v1) = cgroup(Version::V1, &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(v1.limit().expect("a file"), None);
        let (_v1, v1) = cgroup(Version::V1, &[("memory.limit_in_bytes", "4096\n")]);
        assert_eq!(v1.limit().expect("a file"), Some(Bytes(4096)));
        let (_v2, v2) = cgroup(Version::V2, &[("memory.max", "8192\n"), ("memory.high", "max\n")]);
        assert_eq!(v2.limit().expect("files"), Some(Bytes(8192)));
        let (_v2, v2) = cgroup(Version::V2, &[("memory.max", "9\n"), ("memory.high", "7\n")]);
        assert_eq!(v2.limit().expect("files"), Some(Bytes(7)));
        let (_root, root) = cgroup(Version::V2, &[]);
        assert_eq!(root.limit().expect("no files"), None);
        let (_odd, odd) = cgroup(Version::V2, &[("memory.max", "lots\n")]);
        assert!(odd.limit().expect_err("no number").to_string().contains("memory.max"));
    }

    #[test]
    fn descendants_are_found_at_every_depth() {
        let (root, group) = cgroup(Version::V2, &[("cgroup.procs", "12\n7\n")]);
        fs::create_dir_all(root.path().join("a/b")).expect("directories");
        fs::create_dir(root.path().join("c")).expect("a directory");
        assert_eq!(group.with_descendants().len(), 4);
        assert_eq!(group.pids().expect("pids"), [12, 7]);
    }
}
