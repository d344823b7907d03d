//! Tests on the running kernel: real processes, effects read from the kernel's own files.

mod common;
mod kinds;
mod scale;
mod unharmed;
