//! What a benchmark prints: one line a figure, with its target and whether that is reached. Timing
//! never makes a benchmark fail.

/// How much a benchmark does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What the figures are about.
    Full,
    /// Just enough to see that it works.
    Quick,
}

impl Size {
    /// What cargo asks for: everything with `--bench`, else (`cargo test --benches`) a quick look.
    /// Nothing where a test runner asks for a list of tests: a benchmark has none.
    #[must_use]
    pub fn asked_for() -> Option<Self> {
        let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
        if has("--list") {
            return None;
        }
        if has("--bench") {
            return Some(Self::Full);
        }
        println!("a quick look: too small for its figures to mean much");
        Some(Self::Quick)
    }

    /// One of two values.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// An amount that must not be larger than its target.
#[derive(Clone, Copy, Debug)]
pub struct Figure<'a> {
    /// What was measured.
    pub what: &'a str,
    /// What came out.
    pub value: f64,
    /// The most that it should be.
    pub target: f64,
    /// The unit of both.
    pub unit: &'a str,
}

impl Figure<'_> {
    /// Prints it, with what it was made from.
    pub fn print(&self, made_from: &str) {
        let Self { what, value, target, unit } = self;
        let verdict = if value <= target { "reached" } else { "NOT reached" };
        // Of what is far below one, the first digits count.
        let digits = if value.abs() < 0.01 { 6 } else { 3 };
        println!(
            "{what}: {value:.digits$} {unit} ({made_from}); target at most {target:.3} {unit}: {verdict}"
        );
    }
}

/// Prints something that has no target.
pub fn note(what: &str, text: &str) {
    println!("{what}: {text} (for information)");
}
