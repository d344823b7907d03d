//! What runs in a guest: the scripts of its busybox.

/// The guest's first process: mounts everything, runs `/script`, and ends the guest.
pub(crate) const INIT: &str = include_str!("guest/init.sh");

/// Directories that have to be there before anything is mounted.
pub(crate) const DIRECTORIES: [&str; 6] = ["bin", "dev", "proc", "sys", "tmp", "tests"];

/// Where the test programs are.
pub(crate) const TESTS: &str = "tests";

/// Where `recoup`, other programs of the project and busybox are.
pub(crate) const PROGRAMS: &str = "bin";

/// The last line that the guest prints, with the script's exit status.
pub(crate) const DONE: &str = "@recoup done ";

/// A `/script` that runs the tests whose names contain the filter.
pub(crate) fn tests(filter: Option<&str>, demo: bool) -> String {
    let quoted = filter.unwrap_or_default().replace('\'', r"'\''");
    let demo = if demo { "yes" } else { "" };
    format!("FILTER='{quoted}' DEMO={demo}\n{}", include_str!("guest/tests.sh"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_filter_with_quotes_stays_one_word_of_the_shell() {
        let script = super::tests(Some("a'b"), false);
        assert!(script.starts_with(r"FILTER='a'\''b' DEMO="));
    }
}
