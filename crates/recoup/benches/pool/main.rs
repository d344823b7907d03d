//! The figures of the pool, beside what programs use today: plain mappings, jemalloc and mimalloc.

mod compact;
mod faults;
mod metadata;
mod others;
mod pair;

use recoup_testkit::Size;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    pair::print(size);
    faults::print(size);
    compact::print(size);
    metadata::print(size);
}
