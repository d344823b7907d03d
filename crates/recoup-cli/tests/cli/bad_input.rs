//! Everything wrong gets one clear sentence that says what to do, and the right exit status.

use std::process::Output;

use recoup_testkit::{kernel, require};

use crate::{recoup, text};

pub(crate) fn fails_with(output: &Output, status: i32, words: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn a_pid_that_does_not_exist_is_named() {
    let output = recoup(&["report", "--pid", "4194304"]);
    fails_with(&output, 1, &["no process 4194304"]);
}

#[test]
fn a_missing_pid_among_good_ones_keeps_the_good_ones_from_nothing() {
    require!(kernel::is_root(), "root");
    let own = std::process::id().to_string();
    let output = recoup(&["report", "--json", "--pid", "4194304", "--pid", &own]);
    fails_with(&output, 1, &["no process 4194304"]);
    assert!(text(&output.stdout).contains(&format!("\"pid\": {own}")));
}

#[test]
fn a_kernel_thread_is_called_one() {
    require!(kernel::is_root(), "root");
    fails_with(&recoup(&["report", "--pid", "2"]), 1, &["kernel thread", "name a program"]);
}

#[test]
fn a_cgroup_that_does_not_exist_is_named_with_where_to_look() {
    let hierarchy = recoup_sys::cgroup::Hierarchy::find().expect("the mounts");
    require!(hierarchy.is_some(), "a memory cgroup hierarchy");
    let output = recoup(&["reclaim", "--cgroup", "/no/such/group"]);
    fails_with(&output, 1, &["/no/such/group", "name a directory below"]);
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused() {
    let hierarchy = recoup_sys::cgroup::Hierarchy::find().expect("the mounts");
    require!(hierarchy.is_some(), "a memory cgroup hierarchy");
    fails_with(&recoup(&["report", "--cgroup", "/tmp"]), 1, &["/tmp is no memory cgroup"]);
}

#[test]
fn reclaim_wants_its_target_named() {
    fails_with(&recoup(&["reclaim"]), 2, &["--pid", "--cgroup", "--all"]);
}

#[test]
fn usage_errors_exit_with_2_and_name_the_argument() {
    fails_with(&recoup(&["report", "--pid", "zero"]), 2, &["zero", "--pid"]);
    fails_with(&recoup(&["report", "--pid", "0"]), 2, &["--pid"]);
    fails_with(&recoup(&["report", "--pid", "1", "--all"]), 2, &["--all"]);
    fails_with(&recoup(&["reclaim", "--all", "--only", "all"]), 2, &["thp-holes", "lazyfree"]);
    fails_with(&recoup(&["reclaim", "--all", "--min-bytes", "lots"]), 2, &["lots"]);
    fails_with(&recoup(&["reclaim", "--all", "--watch", "soon"]), 2, &["soon"]);
    fails_with(&recoup(&["report", "--map"]), 2, &["--pid"]);
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error() {
    require!(kernel::is_root(), "root");
    let own = std::process::id().to_string();
    let output = recoup(&["report", "--pid", &own, "--map=/no/such/place/map.svg"]);
    fails_with(&output, 1, &["cannot write the picture to /no/such/place/map.svg"]);
}

#[test]
fn without_privileges_it_says_so_and_what_to_do() {
    require!(kernel::is_root(), "root, to run as another user");
    let output = unprivileged(&["report", "--pid", "1"]);
    fails_with(&output, 1, &["process 1 may not be looked at", "run as root"]);
    let output = unprivileged(&["reclaim", "--all"]);
    fails_with(&output, 1, &["run as root"]);
}

#[test]
fn without_privileges_reclaiming_an_own_process_is_not_done_and_said_so() {
    require!(kernel::is_root(), "root, to run as another user");
    let mut sleeper = std::process::Command::new("sleep");
    let mut sleeper = as_nobody(&mut sleeper).arg("60").spawn().expect("sleep starts");
    let output = unprivileged(&["reclaim", "--json", "--pid", &sleeper.id().to_string()]);
    sleeper.kill().expect("a child that was not reaped");
    sleeper.wait().expect("a child");
    fails_with(&output, 1, &["not everything can be given back", "run as root"]);
    assert!(text(&output.stdout).contains("\"errors\": [\n    \"not everything"));
}

#[test]
fn watching_ends_when_the_process_has_ended() {
    require!(kernel::is_root(), "root");
    let workload = recoup_testkit::Workload::start();
    let recoup = std::process::Command::new(recoup_testkit::workload::built("recoup"))
        .args(["reclaim", "--watch", "50ms", "--pid", &workload.pid().to_string()])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("recoup starts");
    drop(workload);
    let output = recoup.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[test]
fn without_privileges_doctor_names_what_is_missing() {
    require!(kernel::is_root(), "root, to run as another user");
    let output = unprivileged(&["doctor"]);
    let printed = text(&output.stdout);
    assert!(output.status.success());
    assert!(printed.contains("missing  find holes in huge pages"), "{printed}");
    assert!(printed.contains("CAP_SYS_ADMIN"), "{printed}");
}

/// Runs a copy of `recoup` that everybody may run as a user without any privilege.
pub(crate) fn unprivileged(arguments: &[&str]) -> Output {
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a directory");
    let copy = directory.path().join("recoup");
    std::fs::copy(recoup_testkit::workload::built("recoup"), &copy).expect("a copy");
    as_nobody(std::process::Command::new(&copy).args(arguments)).output().expect("recoup starts")
}

fn as_nobody(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    command.current_dir("/").uid(65534).gid(65534)
}
