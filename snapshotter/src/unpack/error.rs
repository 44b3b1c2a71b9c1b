//! Why a layer was not unpacked.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Compression;
use super::tar::TarError;
use crate::DiffId;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The blob could not be read or, being compressed, not be decompressed: the codecs report
    /// both as errors of reading. Ask the reader which of the two it was.
    #[error("read the {0} layer")]
    Read(Compression, #[source] io::Error),
    /// The uncompressed bytes are not what the image says.
    #[error("the layer has diffID {actual} instead of {expected}")]
    Digest {
        /// What the image's configuration says.
        expected: DiffId,
        /// What was read.
        actual: DiffId,
    },
    /// The tar is broken.
    #[error("read the tar at byte {offset}")]
    Tar {
        /// Offset in the uncompressed tar.
        offset: u64,
        /// Why.
        #[source]
        source: TarError,
    },
    /// One entry of the tar is not acceptable.
    #[error("unpack {name:?}")]
    Refused {
        /// The entry's name as in the tar.
        name: PathBuf,
        /// Why.
        #[source]
        reason: Refusal,
    },
    /// A system call failed.
    #[error("{op} {name:?}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The entry's name in the layer.
        name: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The layer has more content than is allowed.
    #[error("the layer has more than {0} bytes of content")]
    TooLarge(u64),
}

/// Why one entry of a tar is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A `..` in the name: it could only be meant to lead elsewhere.
    #[error("a name may not have a `..` component")]
    DotDot,
    /// A NUL in a name.
    #[error("a name may not hold a NUL byte")]
    Nul,
    /// More than the kernel takes in one path (4095), or in one component (255).
    #[error("the name is too long")]
    TooLong,
    /// `.wh.` names nothing to remove, or is used as a directory.
    #[error("not a valid whiteout")]
    Whiteout,
    /// The name goes through something that is no directory.
    #[error("a part of the name is not a directory")]
    NotADirectory,
    /// The name goes through links that never end.
    #[error("the name goes through too many symbolic links")]
    Links,
    /// The root of the layer can only be a directory.
    #[error("the root of a layer must be a directory")]
    Root,
    /// Only overlayfs itself may set these.
    #[error("the attribute {0:?} is reserved for overlayfs")]
    OverlayAttribute(String),
    /// The target of a hard link is in no layer.
    #[error("the hard link's target {0:?} does not exist")]
    NoTarget(PathBuf),
    /// The target of a hard link is a directory.
    #[error("the hard link's target {0:?} is a directory")]
    DirectoryTarget(PathBuf),
    /// A user or group id that Linux does not have.
    #[error("the owner {0} is not a valid id")]
    Owner(u64),
    /// A device number that Linux does not have.
    #[error("device number {0}:{1} is out of range")]
    Device(u64, u64),
    /// Entries without an end of directories that they imply.
    #[error("the tar implies too many directories")]
    TooManyImplied,
}

pub(crate) fn path(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

impl UnpackError {
    pub(crate) fn refused(name: &[u8], reason: Refusal) -> Self {
        Self::Refused {
            name: path(name),
            reason,
        }
    }

    /// Wraps a failed call, for use in `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(op: &'static str, name: &[u8]) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            op,
            name: path(name),
            source: source.into(),
        }
    }
}
