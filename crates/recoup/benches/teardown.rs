//! The figures of tearing down memory.
fn main() {}
