//! What of an image is on disk.
//!
//! ```text
//! images/<hex>/record.json    names, layers, size
//! images/<hex>/manifest       as it came, or as it was made for a docker-archive
//! images/<hex>/config         as it came: its digest is the image's id
//! ```
//!
//! The record is written last, synced, once all layers are durable; so an image
//! with a record was complete when it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use longshore_snapshotter::LayerId;
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::plan::Blob;
use super::verify;
use crate::base::id::{Digest, ImageId};
use crate::store::{Durability, Record, Records, sync_dir, write_file};

/// An image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) id: ImageId,
    /// Digest of the file `manifest`.
    pub(super) manifest: Digest,
    /// Its media type, where its source told one.
    pub(super) manifest_type: Option<String>,
    /// Bottom to top.
    pub(super) layers: Vec<LayerId>,
    pub(super) size: u64,
    /// Each tag and when it came to stand for this image (nanoseconds): after a
    /// crash two records may name a tag, and the later one has it.
    pub(super) tags: BTreeMap<String, i64>,
    pub(super) digests: BTreeSet<String>,
}

impl Record for ImageRecord {
    const KIND: &'static str = "image";
    const VERSION: u32 = 1;
}

/// The documents beside a record.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    pub(super) manifest: bytes::Bytes,
    pub(super) config: bytes::Bytes,
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("config")
}

fn manifest_path(dir: &Path) -> PathBuf {
    dir.join("manifest")
}

/// Writes documents and record; all is durable on return.
pub(super) fn write(
    records: &Records<ImageRecord>,
    record: &ImageRecord,
    documents: &Documents,
) -> Result<(), ImageError> {
    let dir = records.dir(record.id.hex());
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ImageError::io("create directory", &dir)(error));
        }
        _ => sync_dir(records.root())?,
    }
    write_file(&config_path(&dir), &documents.config, Durability::Synced)?;
    write_file(
        &manifest_path(&dir),
        &documents.manifest,
        Durability::Synced,
    )?;
    records.write(record.id.hex(), record, Durability::Synced)?;
    Ok(())
}

/// The configuration, if it is the one that the image is named after.
pub(super) fn read_config(
    records: &Records<ImageRecord>,
    id: &ImageId,
) -> Result<Vec<u8>, ImageError> {
    let path = config_path(&records.dir(id.hex()));
    let bytes = std::fs::read(&path).map_err(ImageError::io("read", &path))?;
    let blob = Blob {
        digest: id.clone().into(),
        size: bytes.len() as u64,
    };
    verify::bytes("the stored configuration", &blob, &bytes)?;
    Ok(bytes)
}
