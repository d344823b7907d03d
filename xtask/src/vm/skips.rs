//! Which tests may be skipped where. A test that says that it cannot run in a guest that has what it
//! needs has failed.

use super::results::{Outcome, Results};

/// What no guest has, or not surely.
const NOT_IN_GUESTS: [&str; 6] = [
    "another test starts this one",
    "holds huge pages until it is killed",
    "redis-server",
    "losetup",
    "not too fragmented",
    "on a disk",
];

/// What just one guest has, and how tests call it.
const ONLY_IN: [(&str, &str); 3] =
    [("numa", "odes"), ("gigabytes", "1 GiB"), ("reserved", "the kernel leaves alone")];

/// The first two numbers of a kernel's version.
type Release = (u32, u32);

/// Makes problems of tests that were skipped where nothing is missing. Where the kernel's version is not
/// known, nothing is.
pub(crate) fn check(results: &mut Results, version: &str, guest: &str) {
    let Some(release) = release(version) else { return };
    let unexpected = results.tests.iter().filter_map(|test| match &test.outcome {
        Outcome::Skipped(reason) if !is_expected(reason, release, guest) => {
            Some(format!("{} was skipped where it should run: {reason}", test.name))
        }
        _ => None,
    });
    let unexpected: Vec<String> = unexpected.collect();
    results.problems.extend(unexpected);
}

fn is_expected(reason: &str, release: Release, guest: &str) -> bool {
    let elsewhere = |(name, what): &(&str, &str)| *name != guest && reason.contains(what);
    NOT_IN_GUESTS.iter().any(|what| reason.contains(what))
        || ONLY_IN.iter().any(elsewhere)
        || is_of_another_kernel(reason, release)
}

/// Whether a reason names `Linux X.Y`, or `Linux X.Y to X.Y`, and this one is not of those.
fn is_of_another_kernel(reason: &str, kernel: Release) -> bool {
    let Some((_, named)) = reason.split_once("Linux ") else { return false };
    let (first, rest) = named.split_at(number_end(named));
    let last = rest.strip_prefix(" to ").and_then(release);
    let too_old = release(first).is_some_and(|first| kernel < first);
    too_old || last.is_some_and(|last| kernel > last)
}

fn number_end(text: &str) -> usize {
    text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len())
}

fn release(version: &str) -> Option<Release> {
    let mut numbers = version[..number_end(version)].split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::results::Test;

    #[test]
    fn what_a_kernel_has_is_no_reason_to_skip() {
        let since = "needs CONFIG_PT_RECLAIM (Linux 6.14) and a userfaultfd for kernel faults";
        assert!(is_expected(since, (6, 12), "default"));
        assert!(!is_expected(since, (6, 14), "default"));
        let between = "needs a kernel that shows empty tables (Linux 6.7 to 7.2)";
        let expected = [(6, 1), (6, 7), (7, 2), (7, 3)].map(|it| is_expected(between, it, "numa"));
        assert_eq!(expected, [true, false, false, true]);
    }

    #[test]
    fn what_one_guest_has_is_a_reason_in_others() {
        assert!(is_expected("needs 3 huge pages of 1 GiB", (7, 3), "default"));
        assert!(!is_expected("needs 3 huge pages of 1 GiB", (7, 3), "gigabytes"));
        assert!(is_expected("needs two nodes with memory", (6, 1), "default"));
        assert!(!is_expected("needs two nodes with memory", (6, 1), "numa"));
        assert!(!is_expected("needs root", (6, 1), "default"));
    }

    #[test]
    fn a_skip_without_need_is_a_problem() {
        let skipped = |reason: &str| Test {
            name: "a test".to_owned(),
            outcome: Outcome::Skipped(reason.to_owned()),
        };
        let tests = vec![skipped("needs root"), skipped("needs loop devices (losetup)")];
        let results = Results { tests, ..Results::default() };
        let problems = |version: &str| {
            let mut checked = results.clone();
            check(&mut checked, version, "default");
            checked.problems
        };
        assert_eq!(problems("6.12.107-1"), ["a test was skipped where it should run: needs root"]);
        assert_eq!(problems("/boot/vmlinuz"), Vec::<String>::new());
    }
}
