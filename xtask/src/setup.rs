//! Installs what the tests need, if it isn't there: on Debian and its relatives, as root.

use std::process::Command;

use anyhow::bail;

use crate::command::{exists, run as run_command};

/// A program that the tests start, or that builds what they start, and the package that has it.
const NEEDED: [(&str, &str); 4] =
    [("redis-server", "redis-server"), ("cc", "gcc"), ("c++", "g++"), ("make", "make")];

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    run_command(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
}

/// Installs what is missing.
pub(crate) fn install(needed: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() || !exists("apt-get") {
        bail!("the tests need these packages, please install them: {}", missing.join(" "));
    }
    // Packages that are servers must not start themselves: the tests start their own.
    let policy = NoServices::put()?;
    apt_get(&["update", "-q"])?;
    apt_get(&[&["install", "-q", "-y", "--no-install-recommends"], missing.as_slice()].concat())?;
    drop(policy);
    Ok(())
}

/// Installs what all tests on this machine need.
pub(crate) fn run() -> anyhow::Result<()> {
    install(&NEEDED)
}

/// Keeps packages' services from starting while they are installed (policy-rc.d).
struct NoServices {
    made: bool,
}

impl NoServices {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn put() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if std::path::Path::new(Self::PATH).exists() {
            return Ok(Self { made: false });
        }
        std::fs::write(Self::PATH, "#!/bin/sh\nexit 101\n")?;
        std::fs::set_permissions(Self::PATH, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            // Nothing better can be done about a file that won't go than to leave it.
            let _ = std::fs::remove_file(Self::PATH);
        }
    }
}
