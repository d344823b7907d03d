//! What can go wrong between recoup and the kernel.

use std::io;

/// The result of asking the kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that the kernel refused, or an answer that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or a read failed.
    #[error("cannot {operation} {subject}: {source}")]
    Os {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// What it was attempted on: a path, a process, a range.
        subject: String,
        /// The `errno`.
        source: io::Error,
    },
    /// A kernel file has a form that recoup doesn't know.
    #[error("{subject} has an unexpected form: {detail}")]
    Malformed {
        /// The file.
        subject: String,
        /// What was wrong with it.
        detail: String,
    },
    /// What was asked for is not to be had here as things are.
    #[error("{what}: {remedy}")]
    Unavailable {
        /// What was attempted, and why it cannot be.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// No process has this number, or it ended meanwhile.
    #[error("no process {0}: it has ended, never existed, or is the number of a thread")]
    NoSuchProcess(i32),
    /// The address space that was opened is gone: its process ended or ran execve(2).
    #[error("the address space is gone: its process ended or started another program")]
    AddressSpaceGone,
}

impl Error {
    /// A failed system call or read.
    pub fn os(
        operation: &'static str,
        subject: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Os { operation, subject: subject.into(), source: source.into() }
    }

    pub(crate) fn malformed(subject: impl Into<String>, detail: impl ToString) -> Self {
        Self::Malformed { subject: subject.into(), detail: detail.to_string() }
    }

    /// Whether the process in question is simply gone: normal at any moment.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NoSuchProcess(_) | Self::AddressSpaceGone => true,
            Self::Os { source, .. } => source.raw_os_error() == Some(libc::ESRCH),
            Self::Malformed { .. } | Self::Unavailable { .. } => false,
        }
    }

    /// Whether a privilege is missing.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Os { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}
