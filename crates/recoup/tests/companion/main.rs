//! The companion on the running kernel: real processes that end in real ways. What became of them is
//! read from their exit status, their cgroup's charge and `/proc`.

#![cfg(target_arch = "x86_64")]

mod chores;
mod common;
mod ends;
mod killed;
mod refused;
mod stepped;
mod unnoticed;
