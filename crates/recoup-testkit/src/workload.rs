//! A process that does to its memory what a test tells it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use recoup_sys::cgroup::{Cgroup, Hierarchy, OwnCgroup};

use crate::kernel;

/// A running `recoup-workload`, ended when dropped. Its commands are listed in that program.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    /// Nothing once it was told that there are no more.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Workload {
    /// Starts one.
    ///
    /// # Panics
    /// If the program was not built.
    #[must_use]
    pub fn start() -> Self {
        Self::start_program("recoup-workload")
    }

    /// Starts another program that answers lines in the same way.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn start_program(name: &str) -> Self {
        let mut child = Command::new(built(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut workload = Self { child, commands, answers };
        // Until its program runs, a child that was just made may still share this process's memory.
        workload.tell("hello");
        workload
    }

    /// Starts one in a cgroup.
    ///
    /// # Panics
    /// If it cannot be moved there.
    #[must_use]
    pub fn start_in(cgroup: &Cgroup) -> Self {
        let workload = Self::start();
        cgroup.add(workload.pid()).expect("the workload can be moved");
        workload
    }

    /// Its number.
    ///
    /// # Panics
    /// Never: Linux's numbers fit.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Gives a command and awaits its answer.
    ///
    /// # Panics
    /// If the command fails or the workload has ended.
    pub fn tell(&mut self, command: &str) -> String {
        self.send(command);
        self.answer(command)
    }

    /// Gives a command and doesn't wait.
    ///
    /// # Panics
    /// If the workload has ended.
    pub fn send(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("its input is open");
        writeln!(commands, "{command}").expect("the workload listens");
    }

    /// Awaits the answer to a command.
    ///
    /// # Panics
    /// If the command failed or the workload has ended.
    pub fn answer(&mut self, command: &str) -> String {
        self.any_answer().unwrap_or_else(|answer| panic!("{command}: {answer:?}"))
    }

    /// Awaits the answer to a command that may fail; what it says then is the error.
    ///
    /// # Errors
    /// What the workload says, or nothing if it has ended.
    ///
    /// # Panics
    /// If its output cannot be read.
    pub fn any_answer(&mut self) -> Result<String, String> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the workload's output");
        let answer = answer.trim_end();
        match answer.strip_prefix("ok") {
            Some(text) => Ok(text.trim_start().to_owned()),
            None => Err(answer.to_owned()),
        }
    }

    /// Gives no more commands: its input ends.
    pub fn dismiss(&mut self) {
        self.commands = None;
    }

    /// Awaits its end.
    ///
    /// # Panics
    /// If it was waited for by somebody else.
    pub fn status(&mut self) -> ExitStatus {
        self.child.wait().expect("a child")
    }

    /// Kills it (SIGKILL) and awaits its end.
    ///
    /// # Panics
    /// If it was waited for by somebody else.
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().expect("a child");
        self.status()
    }

    /// Awaits the end of its output, which comes when nobody holds it open any more.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.answers.read_to_string(&mut rest).expect("its output");
        rest
    }

    /// Maps a region and returns its addresses.
    ///
    /// # Panics
    /// If it cannot be mapped.
    pub fn map(&mut self, command: &str) -> std::ops::Range<u64> {
        let answer = self.tell(command);
        let (start, end) = answer.split_once('-').expect("a range");
        let hex = |text| u64::from_str_radix(text, 16).expect("an address");
        hex(start)..hex(end)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of one of the project's programs or libraries: in `RECOUP_BIN_DIR`, or where cargo builds
/// them.
///
/// # Panics
/// If it isn't there.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let beside_tests = || {
        let test = std::env::current_exe().expect("the path of this program");
        test.ancestors().nth(2).expect("cargo's target directory").to_owned()
    };
    let directory = std::env::var_os("RECOUP_BIN_DIR").map_or_else(beside_tests, PathBuf::from);
    let path = directory.join(name);
    if !path.is_file() {
        build();
    }
    assert!(path.is_file(), "{} is missing: cargo build --workspace", path.display());
    path
}

/// Builds the project's programs and libraries as this one was built, if cargo runs it: cargo builds only those of
/// the packages that it was asked for.
fn build() {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    let status = Command::new(cargo).args(["build", "--workspace"]).args(profile).status();
    assert!(status.is_ok_and(|status| status.success()), "cargo build --workspace");
}

/// The largest resident size of a `recoup` that reclaims once all that can be found in a process, in
/// bytes.
///
/// # Panics
/// If it cannot be started or prints nothing.
#[must_use]
pub fn peak_of_recoup(pid: i32) -> u64 {
    // Watching keeps it alive after the first pass, so that its peak can be read.
    let mut recoup = Command::new(built("recoup"))
        .args(["reclaim", "--exact", "--json", "--watch", "1h", "--pid"])
        .arg(pid.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("recoup starts");
    let mut line = String::new();
    let output = recoup.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("a document");
    let own_pid = i32::try_from(recoup.id()).expect("a pid");
    let peak = kernel::status_bytes(own_pid, "VmHWM");
    recoup.kill().expect("a child that was not reaped");
    recoup.wait().expect("a child");
    assert!(line.contains("lazyfree_bytes"), "{line}");
    peak
}

/// A cgroup of the test's own, named after it; nothing where none can be made.
#[must_use]
pub fn own_cgroup(name: &str) -> Option<OwnCgroup> {
    let hierarchy = Hierarchy::find().ok().flatten()?;
    hierarchy.create(&format!("recoup-test-{name}-{}", std::process::id())).ok()
}

/// What a cgroup is charged, read from its files.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn charge(cgroup: &Cgroup) -> u64 {
    let read = |file: &str| std::fs::read_to_string(cgroup.path().join(file));
    let text = read("memory.usage_in_bytes").or_else(|_| read("memory.current"));
    text.expect("the cgroup's charge").trim().parse().expect("a number")
}

/// This process in a cgroup of its own, so that its charge can be read; back where it was when
/// dropped.
#[derive(Debug)]
pub struct InOwnCgroup {
    own: OwnCgroup,
    before: Cgroup,
}

impl InOwnCgroup {
    /// Makes the cgroup and moves this process there; nothing where that cannot be done.
    #[must_use]
    pub fn enter(name: &str) -> Option<Self> {
        let hierarchy = Hierarchy::find().ok().flatten()?;
        let this = recoup_sys::Process::own().ok()?;
        let before = hierarchy.of_process(&this).ok().flatten()?;
        let own = own_cgroup(name)?;
        own.add(kernel::own_pid()).ok()?;
        Some(Self { own, before })
    }

    /// The cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.own
    }

    /// What it is charged, in bytes.
    #[must_use]
    pub fn charge(&self) -> u64 {
        charge(&self.own)
    }
}

impl Drop for InOwnCgroup {
    fn drop(&mut self) {
        // Without that the cgroup can't be removed; the next test makes another one.
        let _ = self.before.add(kernel::own_pid());
    }
}
