//! Page tables on the real kernel: effects are read from `VmPTE`, data is checked by those who wrote it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(unsafe_code, reason = "threads share memory, fork and change protections")]

mod alone;
mod arena;
mod hammer;
mod limits;
mod own;
mod pressure;
mod second;
mod sweeps;
