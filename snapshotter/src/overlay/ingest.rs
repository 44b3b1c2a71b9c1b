//! One layer on its way into the store.

use std::io::Read;

use super::layout::Staged;
use crate::record::{Head, LayerRecord};
use crate::unpack::{self, Compression, PendingLink, UnpackOptions};
use crate::{DiffId, SnapshotError};

/// A place in staging for one layer. Dropping it removes the place.
#[derive(Debug)]
pub struct LayerIngest {
    diff_id: DiffId,
    staged: Staged,
    options: UnpackOptions,
}

/// A layer in staging whose diffID was verified. Dropping it removes it.
#[derive(Debug)]
pub struct UnpackedLayer {
    pub(super) staged: Staged,
    pub(super) record: LayerRecord,
    /// Hard links to files that this layer doesn't have.
    pub(super) pending: Vec<PendingLink>,
}

impl LayerIngest {
    pub(super) fn new(diff_id: DiffId, staged: Staged, options: UnpackOptions) -> Self {
        Self {
            diff_id,
            staged,
            options,
        }
    }

    /// The layer that is expected.
    #[must_use]
    pub fn diff_id(&self) -> &DiffId {
        &self.diff_id
    }

    /// Unpacks `reader`, the layer's blob as it was downloaded, to the end, and verifies the
    /// diffID over the uncompressed bytes. Nothing is synced yet.
    ///
    /// `reader` is read from a second thread, but this call does not return before that thread:
    /// a reader that stalls must end by itself.
    ///
    /// # Errors
    /// [`SnapshotError::Unpack`]; the staging directory is removed.
    pub fn unpack(
        self,
        reader: impl Read + Send,
        compression: Compression,
    ) -> Result<UnpackedLayer, SnapshotError> {
        let Self {
            diff_id,
            staged,
            options,
        } = self;
        let failed = |source| SnapshotError::Unpack { diff_id, source };
        let applied =
            unpack::apply(&staged.fs(), reader, compression, &diff_id, &options).map_err(failed)?;
        let head = Head {
            content_bytes: applied.content_bytes,
            disk_bytes: applied.disk_bytes,
            inodes: applied.inodes,
            names: applied.names,
            implied: applied.implied,
            root_opaque: applied.root_opaque,
            ..Head::new(diff_id)
        };
        let record = LayerRecord {
            head,
            files: applied.files,
        };
        Ok(UnpackedLayer {
            staged,
            record,
            pending: applied.pending,
        })
    }
}

impl UnpackedLayer {
    /// The layer's diffID, verified.
    #[must_use]
    pub fn diff_id(&self) -> &DiffId {
        &self.record.head.diff_id
    }

    /// Bytes of file content.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.record.head.content_bytes
    }
}
