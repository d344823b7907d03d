//! The `recoup` program as its users and other programs meet it.

mod bad_input;
mod documents;
mod json;
mod map;
mod pool;
mod redis_server;
mod whole_host;

use std::process::{Command, Output};

use recoup_testkit::workload::built;

/// Runs `recoup` with these arguments to its end.
fn recoup(arguments: &[&str]) -> Output {
    Command::new(built("recoup")).args(arguments).output().expect("recoup starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs `recoup` and parses the one document that it prints.
fn document(arguments: &[&str]) -> serde_json::Value {
    let output = recoup(arguments);
    let printed = text(&output.stdout);
    serde_json::from_str(&printed).unwrap_or_else(|e| {
        panic!("{arguments:?}: {e}: {printed} {}", text(&output.stderr));
    })
}
