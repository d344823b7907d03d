//! The probe says what is true of the running kernel: held against its release, which the probe
//! itself never looks at.

use recoup_sys::{Features, Support};

/// The first two numbers of `uname -r`.
fn release() -> (u32, u32) {
    let uname = rustix::system::uname();
    let text = uname.release().to_string_lossy().into_owned();
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn pagemap_scan_works_since_6_7_and_is_missing_with_words_before() {
    let features = Features::probe().unwrap();
    match (&features.pagemap_scan, release() >= (6, 7)) {
        (Support::Works, true) => {}
        (Support::Missing { why, remedy }, false) => {
            assert!(why.contains("PAGEMAP_SCAN"), "{why}");
            assert!(remedy.contains("6.7"), "{remedy}");
        }
        (found, new) => panic!("Linux {:?} (6.7 or later: {new}): {found:?}", release()),
    }
}

#[test]
fn every_answer_that_is_no_says_why_and_what_to_do() {
    for (name, support) in Features::probe().unwrap().named() {
        if let Support::Missing { why, remedy } = support {
            assert!(!why.is_empty() && !remedy.is_empty(), "{name}");
        }
    }
}
