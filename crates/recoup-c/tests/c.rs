//! What C and C++ get: the header, and programs that use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use recoup_testkit::require;
use recoup_testkit::workload::built;

fn crate_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn the_header_is_what_cbindgen_makes_of_the_crate() {
    require!(crate_file("src/lib.rs").exists(), "the source tree");
    let config = cbindgen::Config::from_file(crate_file("cbindgen.toml")).expect("a configuration");
    let bindings =
        cbindgen::generate_with_config(crate_file(""), config).expect("the crate is understood");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let path = crate_file("include/recoup.h");
    if std::env::var_os("RECOUP_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed.as_bytes() == made,
        "include/recoup.h is out of date: RECOUP_WRITE_HEADER=1 cargo test -p recoup-c"
    );
}

/// Compiles an example with the library, and runs it.
fn compile_and_run(compiler: &str, flags: &[&str], source: &str, library: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    let compiled = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .args(flags)
        .arg("-I")
        .arg(crate_file("include"))
        .arg(crate_file(source))
        .arg(built(library))
        .args(["-lpthread", "-ldl", "-lm"])
        .status()
        .expect("the compiler runs");
    assert!(compiled.success(), "{compiler} {source}");
    let output = Command::new(&program)
        .env("LD_LIBRARY_PATH", built(library).parent().expect("a directory"))
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source}: {}\n{text}{errors}", output.status);
    text
}

const EXAMPLES: [&str; 6] = ["discard", "headroom", "free_parallel", "reaper", "tables", "owned"];

#[test]
fn every_example_runs_with_the_shared_and_the_static_library() {
    require!(runs("cc") && crate_file("examples").exists(), "a C compiler and the source tree");
    for name in EXAMPLES {
        let source = format!("examples/{name}.c");
        for library in ["librecoup.so", "librecoup.a"] {
            let said = compile_and_run("cc", &["-std=c11"], &source, library);
            assert!(!said.is_empty(), "{name} shows what it did");
        }
    }
}

#[test]
fn the_header_is_cpp_too() {
    require!(runs("c++") && crate_file("examples").exists(), "a C++ compiler and the source tree");
    compile_and_run("c++", &["-std=c++17"], "tests/header.cpp", "librecoup.so");
}
