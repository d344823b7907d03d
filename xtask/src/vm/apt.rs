//! Debian's packages of other suites than the machine's own, checked by apt's signatures.
//!
//! apt runs with a configuration, package lists and a package cache of the rig's own: the
//! machine's sources and its installed packages stay as they are, and are not looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::command::run;

/// Debian's signing keys, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names the archive where the machine's own sources name none.
const MIRROR_VARIABLE: &str = "RECOUP_DEBIAN_MIRROR";

/// One version of a package, as `apt-cache show` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: String,
}

impl Package {
    /// The packages that belong to this one: those that it wants in exactly its own version.
    pub(crate) fn tied(&self) -> impl Iterator<Item = &str> {
        let exactly = format!("(= {})", self.version);
        self.depends.split(',').filter_map(move |dependency| {
            let (name, version) = dependency.trim().split_once(' ')?;
            (version == exactly).then_some(name)
        })
    }

    fn exact(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

/// Reads the paragraphs that `apt-cache show` prints.
fn paragraphs(shown: &str) -> Vec<Package> {
    let field = |paragraph: &str, name: &str| {
        paragraph
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
            .to_owned()
    };
    shown
        .split("\n\n")
        .map(|paragraph| Package {
            name: field(paragraph, "Package"),
            version: field(paragraph, "Version"),
            depends: field(paragraph, "Depends"),
        })
        .filter(|package| !package.name.is_empty())
        .collect()
}

/// Finds Debian's archive in what `apt-get indextargets` prints of the machine's own sources: lines
/// of address, suite and origin. Security archives hold other suites.
fn archive_in(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        // Before the first `apt-get update` the origin is not known yet.
        let debian =
            words.next().map_or(address.ends_with("/debian/"), |origin| origin == "Debian");
        (debian && !suite.contains("-security")).then_some(address)
    })
}

/// apt, with everything of its own below one directory.
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Sets it up for some suites, and fetches their signed package lists.
    pub(crate) fn open(directory: &Path, suites: &[&str]) -> anyhow::Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        for below in ["lists/partial", "archives/partial"] {
            let path = directory.join(below);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let apt = Self { directory: directory.to_owned() };
        fs::write(apt.configuration(), apt.configuration_text())?;
        fs::write(directory.join("sources.list"), sources(&archive()?, suites))?;
        run(apt.command("apt-get").args(["-qq", "update"]))
            .context("cannot fetch Debian's package lists")?;
        Ok(apt)
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    /// Read after the machine's own configuration, so that its proxies hold, but not its hooks.
    fn configuration_text(&self) -> String {
        let directory = self.directory.display();
        format!(
            "Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State::lists \"{directory}/lists\";\n\
             Dir::State::status \"/dev/null\";\n\
             Dir::Cache \"{directory}\";\n\
             APT::Architecture \"amd64\";\n\
             #clear APT::Architectures;\n\
             APT::Architectures {{ \"amd64\"; }};\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             // The user that apt changes to may not write to a home directory.\n\
             APT::Sandbox::User \"root\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.configuration());
        command
    }

    /// All versions of a package that the suites have.
    pub(crate) fn versions(&self, package: &str) -> anyhow::Result<Vec<Package>> {
        let shown = output(self.command("apt-cache").args(["show", package]))?;
        Ok(paragraphs(&shown))
    }

    /// A package and all that belong to it, in its version.
    pub(crate) fn with_tied(&self, package: &Package) -> anyhow::Result<Vec<Package>> {
        let mut all = vec![package.clone()];
        let mut looked_at = 0;
        while let Some(next) = all.get(looked_at).cloned() {
            looked_at += 1;
            for name in next.tied() {
                if all.iter().any(|known| known.name == name) {
                    continue;
                }
                let exact = format!("{name}={}", next.version);
                let found = self.versions(&exact)?.into_iter().next();
                all.push(found.with_context(|| format!("the suites have no {exact}"))?);
            }
        }
        Ok(all)
    }

    /// Fetches packages, and unpacks them into a directory.
    pub(crate) fn unpack(&self, packages: &[Package], into: &Path) -> anyhow::Result<()> {
        let fetched = tempfile::tempdir_in(&self.directory)?;
        run(self
            .command("apt-get")
            .current_dir(fetched.path())
            .args(["-qq", "download"])
            .args(packages.iter().map(Package::exact)))?;
        for entry in fs::read_dir(fetched.path())? {
            run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(into))?;
        }
        Ok(())
    }
}

fn sources(archive: &str, suites: &[&str]) -> String {
    suites
        .iter()
        .map(|suite| {
            format!("deb [arch=amd64 target=Packages signed-by={KEYRING}] {archive} {suite} main\n")
        })
        .collect()
}

/// The address of Debian's archive.
fn archive() -> anyhow::Result<String> {
    if let Ok(address) = std::env::var(MIRROR_VARIABLE) {
        return Ok(address);
    }
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(ORIGIN)",
        "Created-By: Packages",
    ]))?;
    archive_in(&targets).map(ToOwned::to_owned).with_context(|| {
        format!("the sources of this machine's apt name no Debian archive: set {MIRROR_VARIABLE} to the address of one")
    })
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("what {shown} prints is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (7.2.12+1~bpo13+1)
Version: 7.2.12-1~bpo13+1
Depends: linux-base-cloud-amd64 (= 7.2.12-1~bpo13+1), linux-image-7.2.12-amd64 (= 7.2.12-1~bpo13+1)
Description: Linux

Package: linux-image-cloud-amd64
Version: 6.1.176-1
Depends: kmod, linux-base (>= 4.3~), linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)

";

    #[test]
    fn each_version_shown_is_a_package() {
        let packages = paragraphs(SHOWN);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].version, "7.2.12-1~bpo13+1");
        assert_eq!(packages[1].exact(), "linux-image-cloud-amd64=6.1.176-1");
    }

    #[test]
    fn only_packages_wanted_in_exactly_the_same_version_belong_to_one() {
        let packages = paragraphs(SHOWN);
        assert!(packages[0].tied().eq(["linux-base-cloud-amd64", "linux-image-7.2.12-amd64"]));
        assert!(packages[1].tied().eq(["linux-image-6.1.0-50-cloud-amd64"]));
    }

    #[test]
    fn the_archive_is_the_first_debian_one_that_is_not_for_security() {
        let targets = "http://a.example/debian-security/ bookworm-security Debian\n\
                       http://a.example/other/ nodistro Somebody\n\
                       http://b.example/debian/ bookworm Debian\n";
        assert_eq!(archive_in(targets), Some("http://b.example/debian/"));
        let not_updated = "http://c.example/debian/ bookworm \n";
        assert_eq!(archive_in(not_updated), Some("http://c.example/debian/"));
        assert_eq!(archive_in("http://a.example/x/ stable Other\n"), None);
    }
}
