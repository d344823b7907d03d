//! How a refusal is told in words.

#![expect(unsafe_code, reason = "C hands over a buffer")]

use std::ffi::c_char;

/// Writes a text to the `length` bytes at `place`, cut to fit and ended by a zero, unless `place` is NULL.
///
/// # Safety
/// `place` is NULL, or these bytes are the caller's own.
pub(crate) unsafe fn tell(text: &str, place: *mut c_char, length: usize) {
    let Some(most) = length.checked_sub(1).filter(|_| !place.is_null()) else { return };
    let shown = text.len().min(most);
    // SAFETY: at most `length - 1` of the caller's bytes; the text is other memory.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), shown) };
    // SAFETY: the byte behind, at most the last of the caller's.
    unsafe { place.wrapping_add(shown).write(0) };
}
