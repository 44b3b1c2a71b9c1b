//! `layer.json`: what is known of a committed layer.
//!
//! Written before the one sync of a commit and before the rename that gives the layer its name,
//! so that a layer under its name always has a complete record. It never changes afterwards.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{DiffId, LayerId, LayerInfo};

/// The version this crate writes. A record of a newer version is an error, never a guess.
const VERSION: u32 = 1;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It could not be read.
    #[error("read layer.json")]
    Read(#[source] io::Error),
    /// It is no valid record.
    #[error("parse layer.json")]
    Parse(#[source] serde_json::Error),
    /// It was written by a later version.
    #[error("layer.json has version {0}, this program knows {VERSION}")]
    Version(u32),
}

/// The record without its list of files, which may be long.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) version: u32,
    pub(crate) diff_id: DiffId,
    pub(crate) chained: bool,
    pub(crate) content_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) inodes: u64,
    /// Names in all directories: more than `inodes` where files have several.
    pub(crate) names: u64,
    /// Directories that the tar implies and does not describe, the root as an empty path. They
    /// were made with the defaults; where the parents say otherwise the layer leans on them.
    pub(crate) implied: Vec<TarPath>,
    /// The tar declares the root opaque. overlayfs merges roots regardless, so on any parent the
    /// layer is fitted by a whiteout for each name that the parents have there.
    #[serde(default)]
    pub(crate) root_opaque: bool,
}

/// All of `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) files: Vec<FileRecord>,
}

/// One regular file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) path: TarPath,
    pub(crate) size: u64,
    /// xxh3 (64 bit) of the content, holes left out.
    pub(crate) xxh3: u64,
    /// Offset and length of the parts with content, for a sparse file only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) segments: Option<Vec<(u64, u64)>>,
}

impl Head {
    pub(crate) fn new(diff_id: DiffId) -> Self {
        Self {
            version: VERSION,
            diff_id,
            chained: false,
            content_bytes: 0,
            disk_bytes: 0,
            inodes: 0,
            names: 0,
            implied: Vec::new(),
            root_opaque: false,
        }
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let head: Self = serde_json::from_slice(json).map_err(RecordError::Parse)?;
        head.known()
    }

    fn known(self) -> Result<Self, RecordError> {
        if self.version == VERSION {
            Ok(self)
        } else {
            Err(RecordError::Version(self.version))
        }
    }

    pub(crate) fn info(&self, id: LayerId) -> LayerInfo {
        LayerInfo {
            id,
            diff_id: self.diff_id,
            chained: self.chained,
            content_bytes: self.content_bytes,
            disk_bytes: self.disk_bytes,
            inodes: self.inodes,
        }
    }
}

impl LayerRecord {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, RecordError> {
        // The version decides whether the rest can be understood at all.
        Head::parse(json)?;
        serde_json::from_slice(json).map_err(RecordError::Parse)
    }
}

/// A path of a tar: any bytes but NUL. In JSON non-UTF-8 bytes are `\xNN`, a backslash is `\\`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct TarPath(pub(crate) Vec<u8>);

impl From<TarPath> for String {
    fn from(path: TarPath) -> Self {
        let mut out = Self::with_capacity(path.0.len());
        for chunk in path.0.utf8_chunks() {
            out.push_str(&chunk.valid().replace('\\', "\\\\"));
            for byte in chunk.invalid() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        out
    }
}

impl TryFrom<String> for TarPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            rest = match tail {
                [b'\\', after @ ..] => {
                    out.push(b'\\');
                    after
                }
                [b'x', high, low, after @ ..] => {
                    let byte = hex::decode([*high, *low]).map_err(|error| error.to_string())?;
                    out.extend_from_slice(&byte);
                    after
                }
                _ => return Err(format!("a lone backslash in {text:?}")),
            };
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_path_survives_json(bytes in proptest::collection::vec(1_u8.., 0..40)) {
            let path = TarPath(bytes);
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<TarPath>(&json).unwrap(), path);
        }
    }

    #[test]
    fn odd_escapes_are_errors() {
        for bad in [r#""\\""#, r#""\\x1""#, r#""\\xzz""#, r#""\\n""#] {
            assert!(serde_json::from_str::<TarPath>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_newer_record_is_refused() {
        let mut record = LayerRecord {
            head: Head::new(DiffId::of(b"")),
            files: Vec::new(),
        };
        let parse = |record: &LayerRecord| LayerRecord::parse(&serde_json::to_vec(record).unwrap());
        assert!(parse(&record).is_ok());
        record.head.version = 2;
        assert!(matches!(parse(&record), Err(RecordError::Version(2))));
    }
}
