use std::io;
use std::path::PathBuf;

/// A namespace could not be made, pinned, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// An operation on a file or mount failed.
    #[error("{operation} {}", path.display())]
    Path {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system call without an object failed.
    #[error("{operation}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The path leads to something that is no namespace.
    #[error("{} is not a pinned namespace", path.display())]
    NotPinned {
        /// Which.
        path: PathBuf,
    },
    /// A kernel parameter was refused.
    #[error("set sysctl {name} to {value:?}")]
    Sysctl {
        /// Its name, with dots.
        name: String,
        /// What was written.
        value: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The process whose namespace was to be pinned has ended.
    #[error("process {pid} ended before its namespaces were pinned")]
    ProcessEnded {
        /// Which.
        pid: i32,
    },
    /// The thread that did the work panicked.
    #[error("the namespace thread panicked")]
    Panicked,
}

impl NetnsError {
    pub(super) fn path<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Path {
            operation,
            path,
            source: source.into(),
        }
    }

    pub(super) fn call<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Call {
            operation,
            source: source.into(),
        }
    }
}
