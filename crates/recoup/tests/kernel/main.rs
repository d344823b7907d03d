//! The library on the running kernel: effects are read from the cgroup's charge and from smaps.

mod common;
mod discard;
mod headroom;
mod owned;
mod unprivileged;
