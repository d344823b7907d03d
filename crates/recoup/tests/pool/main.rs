//! The pool on the real kernel. What is in memory is read from `pagemap` and smaps.

#![expect(unsafe_code, reason = "tests fork, and do what an owner must not do")]

mod advice;
mod audit;
mod basics;
mod common;
mod crash;
mod exhausted;
mod fork;
mod leftovers;
mod metadata;
mod model;
mod numa;
mod reserved_memory;
mod sources;
mod threads;
