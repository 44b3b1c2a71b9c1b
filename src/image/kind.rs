//! What an error means to a client.

use std::io;

use longshore_snapshotter::SnapshotError;
use longshore_snapshotter::unpack::UnpackError;

use super::ImageError;
use crate::registry::RegistryError;

/// The few things that a client acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request can never work: a bad name, an ambiguous id.
    Invalid,
    /// The registry has no such image.
    NotFound,
    /// The registry wants other credentials, or gives it to nobody.
    Denied,
    /// The registry can't be reached, or has trouble.
    Unavailable,
    /// The content is not what it claims to be, or not usable.
    Content,
    /// It is an image, but not one that this machine supports.
    Unsupported,
    /// The disk is full.
    NoSpace,
    /// This machine failed.
    Internal,
}

impl ImageError {
    /// What the error means to a client.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::AmbiguousId(_) | Self::Archive { .. } => ErrorKind::Invalid,
            Self::Import { source, .. } => source.kind(),
            Self::Registry(error) => registry(error),
            Self::Plan(_) => ErrorKind::Unsupported,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => ErrorKind::Content,
            Self::Layer(error) => layer(error),
            Self::Store(crate::store::StoreError::Io { source, .. }) | Self::Io { source, .. } => {
                file(source)
            }
            Self::Store(_) | Self::CutOff => ErrorKind::Internal,
        }
    }
}

fn registry(error: &RegistryError) -> ErrorKind {
    match error {
        RegistryError::NotFound { .. } => ErrorKind::NotFound,
        RegistryError::Denied { .. } | RegistryError::Token { .. } => ErrorKind::Denied,
        RegistryError::Unreachable { .. }
        | RegistryError::Interrupted { .. }
        | RegistryError::Unavailable { .. } => ErrorKind::Unavailable,
        RegistryError::TooLarge { .. } | RegistryError::Refused { .. } => ErrorKind::Content,
        RegistryError::BadUrl(_)
        | RegistryError::CaFile { .. }
        | RegistryError::Tls(_)
        | RegistryError::Client(_) => ErrorKind::Internal,
    }
}

fn layer(error: &SnapshotError) -> ErrorKind {
    match error {
        SnapshotError::Io { source, .. } => file(source),
        SnapshotError::Unpack { source, .. } | SnapshotError::Resolve { source, .. } => {
            match source {
                UnpackError::Io { source, .. } => file(source),
                UnpackError::Read(..)
                | UnpackError::Digest { .. }
                | UnpackError::Tar { .. }
                | UnpackError::Refused { .. }
                | UnpackError::TooLarge(_) => ErrorKind::Content,
            }
        }
        SnapshotError::NoContent(_)
        | SnapshotError::NoLayer(_)
        | SnapshotError::NoSnapshot(_)
        | SnapshotError::SnapshotExists(_)
        | SnapshotError::Record { .. }
        | SnapshotError::Mount(_)
        | SnapshotError::NotAFile(_)
        | SnapshotError::TooLarge { .. }
        | SnapshotError::TooManyLinks(_) => ErrorKind::Internal,
    }
}

fn file(error: &io::Error) -> ErrorKind {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&error.kind()) {
        ErrorKind::NoSpace
    } else {
        ErrorKind::Internal
    }
}
