//! `recoup_headroom`.

#![expect(unsafe_code, reason = "C hands over raw pointers")]

use std::ffi::c_int;

use recoup_rust::headroom::{Headroom, Limit};
use recoup_sys::Bytes;

use crate::error::{INVALID, status};

/// What this process can still take, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct recoup_headroom {
    /// Memory that can still be charged before a limit is met or the host is short of memory.
    pub bytes: u64,
    /// What of that was given as `returnable`.
    pub returnable: u64,
    /// The limit that is met first: a cgroup's; 0 if it is the memory of the host.
    pub limit: u64,
    /// What is charged to that cgroup now; 0 for the host.
    pub charge: u64,
}

impl From<Headroom> for recoup_headroom {
    fn from(headroom: Headroom) -> Self {
        let (limit, charge) = match headroom.limited_by {
            Limit::Cgroup { limit, charge, .. } => (limit, charge),
            Limit::Host { .. } => (Bytes::ZERO, Bytes::ZERO),
        };
        Self {
            bytes: headroom.bytes.0,
            returnable: headroom.returnable.0,
            limit: limit.0,
            charge: charge.0,
        }
    }
}

/// How much more this process can take: the least over its cgroup, all cgroups above it, and the
/// host. `returnable` is what the caller can give back at once, such as recoup_waiting(). Takes about
/// 50 us a level of cgroups.
///
/// Returns 0 and fills `answer` in; or an errno: EINVAL for NULL, else that of a file in /proc or of
/// the cgroup that could not be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recoup_headroom_read(
    returnable: u64,
    answer: *mut recoup_headroom,
) -> c_int {
    if answer.is_null() {
        return INVALID;
    }
    status(recoup_rust::headroom(Bytes(returnable)).map(|headroom| {
        // SAFETY: the caller's own structure. It need not be initialised, so no reference is made.
        unsafe { answer.write(headroom.into()) }
    }))
}
