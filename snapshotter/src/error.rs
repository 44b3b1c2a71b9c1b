//! What a snapshotter answers when it cannot.

use std::io;
use std::path::{Path, PathBuf};

use crate::mount::MountError;
use crate::record::RecordError;
use crate::unpack::UnpackError;
use crate::{DiffId, LayerId, SnapshotKey};

/// An operation of a [`Snapshotter`](crate::Snapshotter) that failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A system call failed.
    #[error("{op} {path}", path = path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The layer's tar was not applied.
    #[error("unpack layer {diff_id}")]
    Unpack {
        /// The layer that was wanted.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The layer does not fit the layers below it.
    #[error("fit layer {diff_id} to the layers below it")]
    Resolve {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// An image names a layer that is neither stored nor among the unpacked ones.
    #[error("layer {0} is not stored and was not unpacked")]
    NoContent(DiffId),
    /// No such layer.
    #[error("layer {0} is not stored")]
    NoLayer(LayerId),
    /// No such snapshot.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotKey),
    /// A snapshot of that key exists.
    #[error("snapshot {0} exists already")]
    SnapshotExists(SnapshotKey),
    /// A layer's `layer.json` cannot be used.
    #[error("read the record of layer {layer}")]
    Record {
        /// Whose record.
        layer: LayerId,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The kernel refused an overlay.
    #[error("mount an overlay")]
    Mount(#[source] MountError),
    /// A file to be read from an image is no regular file.
    #[error("{0:?} is not a regular file in the image")]
    NotAFile(String),
    /// A file to be read from an image is larger than the caller takes.
    #[error("{path:?} has {size} bytes, more than {limit}")]
    TooLarge {
        /// Path in the image.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// A path in an image goes through more than 40 symbolic links (path_resolution(7)).
    #[error("{0:?} goes through too many symbolic links")]
    TooManyLinks(String),
}

impl SnapshotError {
    /// Wraps a failed call, for use in `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(op: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            op,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
