//! The kernels that the rig boots: Debian's, from its packages, or one from a file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::apt::{Apt, Package};

/// The package that depends on a suite's current kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Where the kernels come from. The newest is in backports.
const SUITES: [&str; 3] = ["bookworm", "trixie", "trixie-backports"];

/// The kernels of the matrix, by name: the oldest supported, the current, and the newest one.
pub(crate) const NAMES: [&str; 3] = ["6.1", "6.12", NEWEST];

/// The name of the newest kernel there is.
pub(crate) const NEWEST: &str = "newest";

/// A kernel to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What it was asked for by.
    pub(crate) name: String,
    /// Exactly which one it is: the package's version, or the file's path.
    pub(crate) version: String,
    /// The `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Its build configuration, where there is one.
    config: Option<PathBuf>,
}

impl Kernel {
    /// A kernel from a file, with its configuration beside it or not at all.
    pub(crate) fn from_file(image: &Path) -> anyhow::Result<Self> {
        let image = image.canonicalize().with_context(|| {
            format!("no kernel named {}: the names are {NAMES:?}", image.display())
        })?;
        let file = image.file_name().unwrap_or_default().to_string_lossy();
        let config = image.with_file_name(file.replacen("vmlinuz", "config", 1));
        Ok(Self {
            name: file.into_owned(),
            version: image.display().to_string(),
            config: (config != image && config.exists()).then_some(config),
            image,
        })
    }

    /// Whether it was built with an option (`CONFIG_` left off), where its configuration is known.
    pub(crate) fn built_with(&self, option: &str) -> Option<bool> {
        let text = fs::read_to_string(self.config.as_ref()?).ok()?;
        let wanted = format!("CONFIG_{option}=");
        Some(text.lines().any(|line| line.starts_with(&wanted)))
    }
}

/// Makes kernels of names, with Debian's package lists read at most once.
pub(crate) struct Kernels {
    cache: PathBuf,
    apt: Option<Apt>,
}

impl Kernels {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { cache: cache_directory()?, apt: None })
    }

    /// Finds, fetches and unpacks a kernel.
    pub(crate) fn get(&mut self, name: &str) -> anyhow::Result<Kernel> {
        if !NAMES.contains(&name) {
            return Kernel::from_file(Path::new(name));
        }
        let apt = match self.apt.take() {
            Some(apt) => apt,
            None => Apt::open(&self.cache.join("apt"), &SUITES)?,
        };
        let kernel = get_from(&apt, &self.cache, name);
        self.apt = Some(apt);
        kernel
    }
}

fn get_from(apt: &Apt, cache: &Path, name: &str) -> anyhow::Result<Kernel> {
    let versions = apt.versions(META_PACKAGE)?;
    let meta = choose(&versions, name)
        .with_context(|| format!("the suites {SUITES:?} have no {META_PACKAGE} {name}"))?;
    let directory = cache.join("kernels").join(&meta.version);
    if !directory.exists() {
        println!("fetching {META_PACKAGE} {}", meta.version);
        let parent = cache.join("kernels");
        fs::create_dir_all(&parent)?;
        let unpacked = tempfile::tempdir_in(&parent)?;
        apt.unpack(&apt.with_tied(meta)?, unpacked.path())?;
        // In one step, so that a directory of this name is a whole kernel.
        fs::rename(unpacked.keep(), &directory)?;
    }
    let (image, config) = find_image(&directory)?;
    Ok(Kernel { name: name.to_owned(), version: meta.version.clone(), image, config })
}

/// The kernel and its configuration, in `/boot` or, in newer packages, beside the modules.
fn find_image(directory: &Path) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let mut places = vec![directory.join("boot")];
    let modules = directory.join("usr/lib/modules");
    if modules.exists() {
        for entry in fs::read_dir(modules)? {
            places.push(entry?.path());
        }
    }
    for place in places.iter().filter(|place| place.exists()) {
        for entry in fs::read_dir(place)? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(suffix) = file.strip_prefix("vmlinuz") {
                let config = place.join(format!("config{suffix}"));
                return Ok((path.clone(), config.exists().then_some(config)));
            }
        }
    }
    bail!("no vmlinuz in {}: remove it, so that it is fetched again", directory.display())
}

/// The newest version of a series such as 6.1, or of all.
fn choose<'a>(versions: &'a [Package], name: &str) -> Option<&'a Package> {
    let series = format!("{name}.");
    versions
        .iter()
        .filter(|package| name == NEWEST || package.version.starts_with(&series))
        // Of equal ones the first counts, which apt prefers.
        .rev()
        .max_by_key(|package| numbers(&package.version))
}

/// The numbers of an upstream version: 7, 2 and 12 of `7.2.12-1~bpo13+1`.
fn numbers(version: &str) -> Vec<u64> {
    let upstream = version.split('-').next().unwrap_or_default();
    upstream.split('.').map_while(|part| part.parse().ok()).collect()
}

/// `$XDG_CACHE_HOME/recoup`, or `~/.cache/recoup`.
fn cache_directory() -> anyhow::Result<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set: set one, for the cache of kernels")?
        .join("recoup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(versions: &[&str]) -> Vec<Package> {
        versions
            .iter()
            .map(|version| Package { version: (*version).to_owned(), ..Package::default() })
            .collect()
    }

    #[test]
    fn a_series_is_its_newest_version_and_not_that_of_a_longer_number() {
        let all = packages(&["6.1.176-1", "6.12.107-1", "7.2.12-1~bpo13+1", "6.12.95-1~bpo12+1"]);
        let chosen = |name| choose(&all, name).map(|package| package.version.as_str());
        assert_eq!(chosen("6.1"), Some("6.1.176-1"));
        assert_eq!(chosen("6.12"), Some("6.12.107-1"));
        assert_eq!(chosen(NEWEST), Some("7.2.12-1~bpo13+1"));
        assert_eq!(chosen("5.10"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("6.12.107-1") > numbers("6.12.95-1~bpo12+1"));
        assert_eq!(numbers("7.2.12-1~bpo13+1"), [7, 2, 12]);
    }

    #[test]
    fn a_kernel_is_found_in_both_layouts_with_its_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let split = directory.path().join("usr/lib/modules/7.2.12+deb13");
        fs::create_dir_all(&split).unwrap();
        fs::write(split.join("vmlinuz"), "").unwrap();
        fs::write(split.join("config"), "").unwrap();
        let (image, config) = find_image(directory.path()).unwrap();
        assert_eq!(image, split.join("vmlinuz"));
        assert_eq!(config, Some(split.join("config")));

        let boot = directory.path().join("boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("vmlinuz-6.1"), "").unwrap();
        let (image, config) = find_image(directory.path()).unwrap();
        assert_eq!(image, boot.join("vmlinuz-6.1"));
        assert_eq!(config, None);
    }
}
