//! What images take on disk.

use std::path::PathBuf;

use longshore_snapshotter::SnapshotError;

use super::ImageError;
use super::images::Inner;
use crate::base::clock::now_nanos;

/// Use of a file system, for ImageFsInfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A directory on it, which exists.
    pub mountpoint: PathBuf,
    /// Bytes that images use.
    pub bytes: u64,
    /// Inodes that images use.
    pub inodes: u64,
    /// When it was measured: nanoseconds since the epoch.
    pub at: i64,
}

/// From what was written down when the layers were unpacked: it walks no tree.
pub(super) async fn measure(inner: &Inner) -> Result<Vec<FsUsage>, ImageError> {
    let snapshotter = inner.snapshotter.clone();
    let job = inner.tasks.spawn_blocking(move || {
        let (mut bytes, mut inodes) = (0_u64, 0_u64);
        for id in snapshotter.layers()? {
            match snapshotter.layer(&id) {
                Ok(Some(layer)) => {
                    bytes = bytes.saturating_add(layer.disk_bytes);
                    inodes = inodes.saturating_add(layer.inodes);
                }
                // Swept meanwhile, or unreadable, which was reported at start.
                Ok(None) | Err(SnapshotError::Record { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((bytes, inodes))
    });
    let (bytes, inodes) = job.await.map_err(|_| ImageError::CutOff)??;
    let documents: u64 = 3 * inner.table().entries().count() as u64;
    Ok(vec![FsUsage {
        mountpoint: inner.config.layers.clone(),
        bytes,
        inodes: inodes + documents,
        at: now_nanos(),
    }])
}
