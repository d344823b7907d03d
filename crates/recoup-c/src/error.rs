//! How results become `errno` values.

use std::ffi::c_int;

use recoup_sys::Error;

/// `EINVAL`, for null pointers and unknown kinds.
pub(crate) const INVALID: c_int = 22;
/// `EOPNOTSUPP`, where the kernel or the place of a process lacks something.
#[cfg(target_arch = "x86_64")]
pub(crate) const NOT_SUPPORTED: c_int = 95;
/// `EIO`, for what has no `errno` of its own: a file of the kernel in an unknown form.
const OTHER: c_int = 5;

/// 0, or the `errno`.
pub(crate) fn status(result: Result<(), Error>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => errno(&error),
    }
}

/// What an error is to C.
pub(crate) fn errno(error: &Error) -> c_int {
    match error {
        Error::Os { source, .. } => source.raw_os_error().unwrap_or(OTHER),
        _ => OTHER,
    }
}
