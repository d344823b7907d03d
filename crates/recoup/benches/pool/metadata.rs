//! What it costs to know about memory.

use recoup_testkit::Size;

pub(super) fn print(_size: Size) {}
