//! The one write path.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// What a write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the daemon, not a power loss.
    Rename,
    /// A power loss too: file and directory are synced before return.
    Synced,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` by `bytes`, mode 0600, by rename within its directory.
///
/// # Errors
/// [`StoreError::Io`] naming the step; the old file is then still in place.
pub fn write_file(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let tmp = path.with_extension(format!("tmp.{}.{serial}", std::process::id()));
    let written = write_tmp(&tmp, bytes, durability).and_then(|()| {
        std::fs::rename(&tmp, path).map_err(StoreError::io("rename into place", path))
    });
    if let Err(error) = written {
        if let Err(left) = std::fs::remove_file(&tmp)
            && left.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %tmp.display(), error = %left, "temporary file stays");
        }
        return Err(error);
    }
    match (durability, path.parent()) {
        (Durability::Synced, Some(dir)) => sync_dir(dir),
        _ => Ok(()),
    }
}

fn write_tmp(tmp: &Path, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(tmp)
        .map_err(StoreError::io("create", tmp))?;
    file.write_all(bytes)
        .map_err(StoreError::io("write", tmp))?;
    if durability == Durability::Synced {
        file.sync_all().map_err(StoreError::io("sync", tmp))?;
    }
    Ok(())
}

/// Makes the entries of a directory durable (`fsync(2)`).
///
/// # Errors
/// [`StoreError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(StoreError::io("sync directory", dir))
}
