//! Runs a machine to its end, and listens to it.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::accelerator::Accelerator;
use super::guest;
use super::initramfs::{self, GuestFile};
use super::machine::Machine;

/// How often the guest's words are read.
const INTERVAL: Duration = Duration::from_millis(50);

/// What QEMU says when a virtual processor stands still for good.
const STUCK: &str = "KVM internal error";

/// What the kernel says on its console when it has gone wrong.
const WRONG: [&str; 5] =
    ["Kernel panic - not syncing", "] Oops", "] BUG: ", "] kernel BUG at ", ": BUG: soft lockup"];

/// How a guest came to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Boot {
    /// The exit status of the machine's script, if it ended.
    pub(crate) status: Option<i32>,
    /// What went wrong with the machine itself, in words.
    pub(crate) problems: Vec<String>,
    pub(crate) took: Duration,
}

/// The files of one run, which stay for whoever wants to know more.
struct Logs {
    initramfs: PathBuf,
    console: PathBuf,
    output: PathBuf,
    qemu: PathBuf,
}

impl Logs {
    fn below(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let logs = Self {
            initramfs: directory.join("initramfs"),
            console: directory.join("console"),
            output: directory.join("output"),
            qemu: directory.join("qemu"),
        };
        // QEMU makes them as well, but a little later than they are read.
        File::create(&logs.console)?;
        File::create(&logs.output)?;
        Ok(logs)
    }
}

/// Boots a machine and waits for its end. Each line that its script prints is told at once.
pub(crate) fn boot(
    machine: &Machine,
    accelerator: Accelerator,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Boot> {
    let logs = Logs::below(directory)?;
    let mut files = machine.files.clone();
    files.push(GuestFile::program("bin/busybox", Path::new("/bin/busybox")));
    files.push(GuestFile::script("init", guest::INIT));
    files.push(GuestFile::script("script", &machine.script));
    let out = BufWriter::new(File::create(&logs.initramfs)?);
    initramfs::write(out, &guest::DIRECTORIES, &files)?;

    let mut lines = Lines::of(File::open(&logs.output)?);
    let mut boot = Boot::default();
    let began = Instant::now();
    let mut qemu = start(machine, accelerator, &logs)?;
    loop {
        // First whether it has ended, then what it said: so nothing said last is missed.
        let ended = qemu.0.try_wait()?;
        lines.read(&mut |line| match line.strip_prefix(guest::DONE) {
            Some(status) => boot.status = status.trim().parse().ok(),
            None => tell(line),
        })?;
        boot.took = began.elapsed();
        if ended.is_some() {
            break;
        }
        if boot.took > machine.time_limit {
            let seconds = machine.time_limit.as_secs();
            boot.problems.push(format!("not done after {seconds} s, ended by the host"));
            break;
        }
        if text(&logs.qemu).contains(STUCK) {
            boot.problems.push(STUCK.to_owned());
            break;
        }
        thread::sleep(INTERVAL);
    }
    drop(qemu);
    boot.problems.extend(wrong_lines(&text(&logs.console)));
    if boot.status.is_none() && boot.problems.is_empty() {
        boot.problems.push(format!("ended early: {}", last_line(&logs)));
    }
    Ok(boot)
}

/// QEMU, ended with its owner.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(machine: &Machine, accelerator: Accelerator, logs: &Logs) -> anyhow::Result<Qemu> {
    let child = Command::new("qemu-system-x86_64")
        .args(machine.arguments(accelerator))
        .arg("-initrd")
        .arg(&logs.initramfs)
        .arg("-serial")
        .arg(format!("file:{}", logs.console.display()))
        .arg("-serial")
        .arg(format!("file:{}", logs.output.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&logs.qemu)?)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    Ok(Qemu(child))
}

/// The complete lines of a file that grows.
struct Lines {
    file: File,
    pending: Vec<u8>,
}

impl Lines {
    fn of(file: File) -> Self {
        Self { file, pending: Vec::new() }
    }

    fn read(&mut self, tell: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        self.file.read_to_end(&mut self.pending)?;
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            tell(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn wrong_lines(console: &str) -> Vec<String> {
    console
        .lines()
        .filter(|line| WRONG.iter().any(|words| line.contains(words)))
        .map(|line| format!("on the console: {}", line.trim()))
        .collect()
}

/// The last words of QEMU, or else those of the kernel.
fn last_line(logs: &Logs) -> String {
    [&logs.qemu, &logs.console]
        .into_iter()
        .find_map(|path| text(path).lines().last().map(|line| line.trim().to_owned()))
        .unwrap_or_else(|| "it said nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn kernels_in_trouble_are_noticed_and_healthy_ones_are_not() {
        let console = "[    0.03] Kernel command line: console=ttyS0 panic=-1\n\
                       [    1.27] BUG: kernel NULL pointer dereference, address: 0\n\
                       [    1.28] Oops: Oops: 0002 [#1] PREEMPT SMP PTI\n\
                       [    2.00] Kernel panic - not syncing: Fatal exception\n\
                       [    3.00] watchdog: BUG: soft lockup - CPU#1 stuck for 23s!\n";
        assert_eq!(wrong_lines(console).len(), 4);
    }

    #[test]
    fn a_line_is_told_once_and_only_when_it_is_complete() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = file.reopen().unwrap();
        let mut lines = Lines::of(file.reopen().unwrap());
        let mut told = Vec::new();
        for part in ["one\r\ntw", "o\n"] {
            writer.write_all(part.as_bytes()).unwrap();
            lines.read(&mut |line| told.push(line.to_owned())).unwrap();
        }
        assert_eq!(told, ["one", "two"]);
    }
}
