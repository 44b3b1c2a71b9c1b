//! What a snapshotter tells about layers and snapshots.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{DiffId, LayerId};

/// A snapshot key that is not one plain path component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot key {0:?} is not 1 to 255 of [A-Za-z0-9_.-], starting with a letter or digit")]
pub struct InvalidKey(String);

/// Names one active snapshot: the container's id. One path component, for it names a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let starts = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts && text.len() <= 255 && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKey(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SnapshotKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnapshotKey> for String {
    fn from(key: SnapshotKey) -> Self {
        key.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A committed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// What it is stored under.
    pub id: LayerId,
    /// The digest of the tar it was made from.
    pub diff_id: DiffId,
    /// Whether it is stored for one chain of parents only.
    pub chained: bool,
    /// Bytes of file content, holes of sparse files not counted.
    pub content_bytes: u64,
    /// Bytes on disk: content in whole 4 KiB blocks and one block a directory.
    pub disk_bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

/// An active snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Whose it is.
    pub key: SnapshotKey,
    /// The directory that holds what the container wrote.
    pub upper: PathBuf,
    /// When it was prepared.
    pub created: SystemTime,
}

/// What a snapshot takes on disk, its layers not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes (`st_blocks`), a file with several names counted once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// How to prepare a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrepareOptions {
    /// The upper need not survive a crash of the machine: the kernel leaves out every sync of it
    /// (kernel documentation, overlayfs.rst, "Volatile mount").
    pub volatile: bool,
    /// User and group id on the host of the container's root, where it has a user namespace. The
    /// upper's root directory is given to it (for an image whose root directory belongs to user n,
    /// to the n-th after it): an upper cannot be idmapped.
    pub owner: Option<(u32, u32)>,
}

/// One way in which a committed layer differs from what was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The file is gone or is no regular file any more.
    Missing(PathBuf),
    /// The file has another size: recorded, found.
    Size(PathBuf, u64, u64),
    /// The size is right and the content is not.
    Content(PathBuf),
    /// The number of names in all directories differs: recorded, found.
    Names(u64, u64),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Size(path, recorded, found) => {
                write!(
                    f,
                    "{} has {found} bytes instead of {recorded}",
                    path.display()
                )
            }
            Self::Content(path) => write!(f, "the content of {} changed", path.display()),
            Self::Names(recorded, found) => write!(f, "{found} names instead of {recorded}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_component() {
        for good in ["a", "0f3c", "web_1.2-x", &"k".repeat(255)] {
            assert_eq!(good.parse::<SnapshotKey>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "/a",
            "a\0",
            "a b",
            "ä",
            &"k".repeat(256),
        ] {
            assert!(bad.parse::<SnapshotKey>().is_err(), "{bad}");
        }
    }
}
