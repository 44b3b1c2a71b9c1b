use std::io;
use std::path::PathBuf;

use super::path::CgroupPath;

/// A control group could not be found, made, filled, emptied or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The host has no cgroup file system mounted.
    #[error("no cgroup hierarchy with controllers is mounted")]
    NoHierarchy,
    /// Text that names no cgroup.
    #[error("{path:?} is no cgroup path: {reason}")]
    BadPath {
        /// What came.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Processes that SIGKILL did not end in time (uninterruptible sleep).
    #[error("{count} processes of cgroup {path} outlive SIGKILL")]
    Alive {
        /// The group.
        path: CgroupPath,
        /// How many.
        count: usize,
    },
}

impl CgroupError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
