use std::io;
use std::path::PathBuf;

/// A record could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// The record is not JSON of the expected form.
    #[error("parse record {}", path.display())]
    Parse {
        /// The record's file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The object could not be turned into JSON.
    #[error("encode record {}", path.display())]
    Encode {
        /// The record's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A directory entry that is no id.
    #[error("{} is not the name of an object", path.display())]
    BadName {
        /// The entry.
        path: PathBuf,
    },
}

impl StoreError {
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
