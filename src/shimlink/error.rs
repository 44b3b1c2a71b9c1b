//! What goes wrong between the daemon and a shim.

use std::io;
use std::time::Duration;

use longshore_proto::shim::v1;

/// A shim could not be started, found or asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// A system call or a file.
    #[error("{operation}")]
    System {
        /// What was tried, on what.
        operation: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The id is no single path component.
    #[error("{0:?} can't name a shim")]
    BadId(String),
    /// A shim with this id lives already.
    #[error("a shim for {0} lives already")]
    Exists(String),
    /// The shim refused or failed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The connection ended before the answer.
    #[error("shim of {id} is gone; {operation} was not answered")]
    Lost {
        /// The container.
        id: String,
        /// What was asked.
        operation: &'static str,
    },
    /// The answer does not fit the question.
    #[error("shim of {id} answered {operation} with something else")]
    Mismatch {
        /// The container.
        id: String,
        /// What was asked.
        operation: &'static str,
    },
    /// A message that can't be decoded, or breaks the transport's rules.
    #[error("malformed message of a shim: {0}")]
    Malformed(&'static str),
    /// The program of a mode (`seccomp`, `pin`, `init`) failed.
    #[error("longshore-shim {mode}: {message}")]
    Mode {
        /// Which.
        mode: &'static str,
        /// What it said, in one line.
        message: String,
        /// errno(3), 0 where there is none.
        errno: i32,
    },
    /// A mode did not finish in its time.
    #[error("longshore-shim {mode} took longer than {limit:?}")]
    Slow {
        /// Which.
        mode: &'static str,
        /// The time it had.
        limit: Duration,
    },
    /// A seccomp profile is no JSON, or names a flag that seccomp(2) lacks.
    #[error("parse seccomp profile")]
    Profile(#[source] serde_json::Error),
}

/// What a shim answered instead of a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {message}")]
pub struct Refused {
    /// What kind of failure it is.
    pub kind: v1::error::Kind,
    /// Where it failed: "execve", "mount rootfs", ...
    pub stage: String,
    /// One line with the causes.
    pub message: String,
    /// errno(3) of the failing call, 0 where there is none.
    pub errno: i32,
}

impl From<v1::Error> for Refused {
    fn from(error: v1::Error) -> Self {
        let kind = error.kind();
        Self {
            kind,
            stage: error.stage,
            message: error.message,
            errno: error.errno,
        }
    }
}

impl ShimError {
    pub(super) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            operation: operation.into(),
            source: source.into(),
        }
    }

    /// The kind of a refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<v1::error::Kind> {
        match self {
            Self::Refused(refused) => Some(refused.kind),
            Self::System { .. }
            | Self::BadId(_)
            | Self::Exists(_)
            | Self::Lost { .. }
            | Self::Mismatch { .. }
            | Self::Malformed(_)
            | Self::Mode { .. }
            | Self::Slow { .. }
            | Self::Profile(_) => None,
        }
    }
}
