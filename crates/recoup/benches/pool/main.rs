//! The figures of the pool, beside what programs use today: plain mappings, jemalloc and mimalloc.

mod bystander;
mod compact;
mod faults;
mod metadata;
mod others;
mod pair;
mod threads;

use recoup_testkit::Size;

/// A part's name, and what prints it.
type Part = (&'static str, fn(Size));

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    let parts: [Part; 4] = [
        ("pair", pair::print),
        ("faults", faults::print),
        ("compact", compact::print),
        ("metadata", metadata::print),
    ];
    // `cargo bench --bench pool -- faults` prints only that.
    let asked_for = |name: &str| std::env::args().any(|argument| argument == name);
    let some = parts.iter().any(|(name, _)| asked_for(name));
    for (_, print) in parts.iter().filter(|(name, _)| !some || asked_for(name)) {
        print(size);
    }
}
