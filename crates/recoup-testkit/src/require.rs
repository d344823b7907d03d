//! Capabilities that a test needs.

/// Says that a test cannot run here for want of `what`.
///
/// # Panics
/// Under `CI=true`: there, everything must be able to run.
pub fn skip(test: &str, what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs {what}");
    eprintln!("skipped: {test}: needs {what}");
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
