use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use longshore_snapshotter::SnapshotError;

use super::plan::PlanError;
use super::reference::ReferenceError;
use crate::base::id::Digest;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Something about images that didn't work.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is none.
    #[error(transparent)]
    Reference(ReferenceError),
    /// The start of an id that several images have.
    #[error("several images have ids that start with {0}")]
    AmbiguousId(String),
    /// The registry did not deliver.
    #[error(transparent)]
    Registry(RegistryError),
    /// The manifest or the configuration can't be used.
    #[error(transparent)]
    Plan(PlanError),
    /// Content that is not what its name says.
    #[error("{what} is not what was asked for: its digest is {actual}, not {expected}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// The digest it was asked for by.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// Content of another length than its descriptor says.
    #[error("{what} has {actual} bytes, not {expected}")]
    SizeMismatch {
        /// Which content.
        what: String,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came, counted up to the first too many.
        actual: u64,
    },
    /// A layer could not be stored, read or removed.
    #[error(transparent)]
    Layer(SnapshotError),
    /// An image's record could not be written, read or removed.
    #[error(transparent)]
    Store(StoreError),
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
    /// An archive to be imported holds no image that can be read.
    #[error("import {}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image of an archive could not be taken over.
    #[error("import {}", path.display())]
    Import {
        /// The archive.
        path: PathBuf,
        /// Why; shared, for a pull may have fetched the same layer.
        #[source]
        source: Arc<ImageError>,
    },
    /// The daemon is shutting down, or the work panicked.
    #[error("the work was cut off")]
    CutOff,
}

impl ImageError {
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

macro_rules! from {
    ($($variant:ident($cause:ty)),+) => {
        $(impl From<$cause> for ImageError {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        })+
    };
}

// Each of these errors names its own operation and object.
from!(
    Reference(ReferenceError),
    Registry(RegistryError),
    Plan(PlanError),
    Layer(SnapshotError),
    Store(StoreError)
);

/// How far a pull had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the name.
    Name,
    /// Asking the registry what the name stands for.
    Resolve,
    /// Fetching the configuration.
    Config,
    /// Fetching and unpacking layers.
    Layers,
    /// Making layers and record durable.
    Commit,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "read the name",
            Self::Resolve => "resolve",
            Self::Config => "fetch the configuration",
            Self::Layers => "fetch layers",
            Self::Commit => "commit",
        })
    }
}

/// A pull that failed. All callers that joined it get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("pull {reference}: {stage}")]
pub struct PullError {
    /// The image as it was asked for.
    pub reference: String,
    /// How far it had come.
    pub stage: Stage,
    /// Why.
    #[source]
    pub cause: Arc<ImageError>,
}
