//! Advice about another process's memory: process_madvise(2) (Linux 5.10).

#![expect(unsafe_code, reason = "process_madvise(2) has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::units::{PageRange, Pages};

/// Advice that may be given about another process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// `MADV_COLD`: deactivates pages; splits a huge page of which only a part is named.
    Cold,
    /// `MADV_PAGEOUT`: reclaims pages; what was freed lazily and not written since is dropped.
    PageOut,
}

/// Most ranges that one call takes (`UIO_MAXIOV`).
pub const MAX_RANGES: usize = 1024;

/// How far one call came.
#[derive(Debug)]
pub struct Advised {
    /// Pages advised, counted from the first range on.
    pub done: Pages,
    /// Why the call stopped before its end, if it did.
    pub stopped: Option<io::Error>,
}

/// Gives `advice` about at most [`MAX_RANGES`] ranges of the process, in their order.
///
/// The kernel stops at the first range that it refuses and says only how far it came; the reason
/// is known where that range is the first of a call. Success says nothing about the effect: a
/// locked, pinned or shared huge page is passed over in silence.
///
/// From 6.15 on the kernel holds the process's mmap lock for reading over a whole call, so the
/// number of ranges decides how long the target's mmap and munmap wait.
///
/// The kernel wants `PTRACE_MODE_READ_FSCREDS` and `CAP_SYS_NICE`: `EPERM` without; `ESRCH` when the
/// process has ended, `EINVAL` for locked, hugetlb or device memory, `ENOMEM` for unmapped memory.
pub fn process_madvise(process: impl AsFd, ranges: &[PageRange], advice: Advice) -> Advised {
    let advice = match advice {
        Advice::Cold => libc::MADV_COLD,
        Advice::PageOut => libc::MADV_PAGEOUT,
    };
    let vectors: Vec<libc::iovec> = ranges.iter().take(MAX_RANGES).map(|&r| vector(r)).collect();
    // SAFETY: the descriptor lives as long as the borrow, the vector array as long as the call.
    // The ranges name memory of the other process, of which COLD and PAGEOUT change no byte.
    let result = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_fd().as_raw_fd(),
            vectors.as_ptr(),
            vectors.len(),
            advice,
            0,
        )
    };
    let asked: Pages = ranges.iter().take(MAX_RANGES).map(|range| range.length()).sum();
    match u64::try_from(result) {
        Ok(bytes) => {
            let done = crate::Bytes(bytes).whole_pages();
            let stopped = (done < asked).then(|| io::Error::from(io::ErrorKind::Interrupted));
            Advised { done, stopped }
        }
        Err(_) => Advised { done: Pages::ZERO, stopped: Some(io::Error::last_os_error()) },
    }
}

fn vector(range: PageRange) -> libc::iovec {
    let clamp = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    libc::iovec {
        iov_base: std::ptr::without_provenance_mut(clamp(range.start.address())),
        iov_len: clamp(range.length().bytes().0),
    }
}
