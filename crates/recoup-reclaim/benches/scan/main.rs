//! How long looking at a process takes, and how long the process may have to wait for it.

mod advise;
#[path = "../common/mod.rs"]
mod common;
mod dense;
mod holds;
mod sparse;

use recoup_sys::Features;
use recoup_testkit::{Size, kernel};

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    if !kernel::is_root() || kernel::version() < (6, 7) {
        println!("scan: not measured, it needs root and Linux 6.7");
        return;
    }
    let features = Features::probe().expect("the features");
    dense::measure(size, &features);
    sparse::measure(size, &features);
    holds::measure(size, &features);
    advise::measure(size);
}
