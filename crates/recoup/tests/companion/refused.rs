//! Where a companion would do harm or no good, there is none, and the program hears why.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use recoup_testkit::workload::built;
use recoup_testkit::{kernel, require};

/// What a victim answers when started by unshare(1); nothing where that cannot be done.
fn answer_under(arguments: &[&str]) -> Option<String> {
    let mut child = Command::new("unshare")
        .args(arguments)
        .arg(built("recoup-victim"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // Where unshare fails nobody reads.
    let _ = child.stdin.take()?.write_all(b"hello\nmap 8 base\narm\n");
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    child.wait().ok()?;
    text.lines().nth(2).map(str::to_owned)
}

#[test]
fn the_init_of_a_pid_namespace_has_none() {
    require!(kernel::is_root(), "root");
    let answer = answer_under(&["--pid", "--fork"]);
    require!(answer.is_some(), "unshare(1)");
    let answer = answer.expect("just checked");
    assert!(answer.starts_with("failed: process 1 of a PID namespace"), "{answer}");
}

#[test]
fn a_companion_never_becomes_the_init_of_a_pid_namespace() {
    require!(kernel::is_root(), "root");
    // Without --fork the program stays outside, and its first child is process 1 inside.
    let answer = answer_under(&["--pid"]);
    require!(answer.is_some(), "unshare(1)");
    let answer = answer.expect("just checked");
    assert!(answer.contains("being a child in the program's PID namespace"), "{answer}");
}
