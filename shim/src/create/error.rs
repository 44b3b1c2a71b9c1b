//! Why a container could not be created.

use std::error::Error as _;
use std::io;

use libcontainer::error::LibcontainerError;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::rootfs::MountError;

/// Why a container could not be created or cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The spec is no OCI runtime spec.
    #[error("decode spec")]
    Spec(#[source] serde_json::Error),
    /// The request lacks something or contradicts itself.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The cgroup.
    #[error("container cgroup")]
    Cgroup(#[source] cgroup::CgroupError),
    /// A mount.
    #[error("mount")]
    Mount(#[source] MountError),
    /// Another call to the kernel.
    #[error("{operation}")]
    System {
        /// What was tried, on what.
        operation: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// libcontainer.
    #[error("libcontainer")]
    Libcontainer(#[source] Box<LibcontainerError>),
}

impl CreateError {
    pub(super) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            operation: operation.into(),
            source: source.into(),
        }
    }

    /// What a caller may branch on: was the request wrong?
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(
            self,
            Self::Spec(_) | Self::Invalid(_) | Self::Cgroup(cgroup::CgroupError::Path(_))
        )
    }

    /// errno(3) of the failing call, 0 where there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(errno) = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
            {
                return errno;
            }
            cause = error.source();
        }
        0
    }

    pub(super) fn stage(&self) -> &'static str {
        match self {
            Self::Spec(_) | Self::Invalid(_) => "request",
            Self::Cgroup(_) => "cgroup",
            Self::Mount(_) => "mount rootfs and volumes",
            Self::System { .. } => "prepare",
            Self::Libcontainer(_) => "libcontainer build",
        }
    }
}

/// A failure on its way out of the worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub stage: String,
    /// One line with the whole chain of causes.
    pub message: String,
    /// errno(3), 0: none.
    pub errno: i32,
    /// The request itself is wrong.
    pub invalid: bool,
}

impl From<&CreateError> for Failure {
    fn from(error: &CreateError) -> Self {
        Self {
            stage: error.stage().to_owned(),
            message: crate::error::chain(error),
            errno: error.errno(),
            invalid: error.is_invalid(),
        }
    }
}
