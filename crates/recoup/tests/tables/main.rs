//! Page tables on the real kernel: effects are read from `VmPTE`, data is checked by those who wrote it.

#![expect(unsafe_code, reason = "threads share memory, fork and change protections")]

mod alone;
mod arena;
mod hammer;
mod limits;
mod sweeps;
