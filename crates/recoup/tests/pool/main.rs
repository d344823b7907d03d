//! The pool on the real kernel. What is in memory is read from `pagemap` and smaps.

mod basics;
mod metadata;
mod numa;
