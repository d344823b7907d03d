//! Capabilities that a test needs.

/// Says that a test cannot run here for want of `what`.
///
/// # Panics
/// Under `CI=true`: there, everything must be able to run.
pub fn skip(test: &str, what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs {what}");
    eprintln!("skipped: {test}: needs {what}");
}

/// Says that a test cannot run here for want of `what`, which only a machine that was made for it has for
/// sure: the guest of this name of `cargo xtask vm-test`.
///
/// # Panics
/// In that guest.
pub fn skip_outside(guest: &str, test: &str, what: &str) {
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = format!("recoup.guest={guest}");
    assert!(!command_line.split_whitespace().any(|it| it == word), "{test} needs {what}");
    eprintln!("skipped: {test}: needs {what}");
}

/// Leaves the test, saying what is missing, unless the condition holds. Where it cannot be counted on,
/// the guest of this name has to have it.
#[macro_export]
macro_rules! require_in_guest {
    ($guest:expr, $condition:expr, $what:expr) => {
        if !$condition {
            let name = std::thread::current().name().unwrap_or("test").to_owned();
            $crate::require::skip_outside($guest, &name, $what);
            return;
        }
    };
}

/// Leaves the test, saying which capability is missing, unless the condition holds.
#[macro_export]
macro_rules! require {
    ($condition:expr, $what:expr) => {
        if !$condition {
            let name = std::thread::current().name().unwrap_or("test").to_owned();
            $crate::require::skip(&name, $what);
            return;
        }
    };
}
