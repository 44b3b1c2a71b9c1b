//! The snapshotter itself: its directories and what it remembers of committed layers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use super::layout::{Layout, open_dir};
use super::{LayerIngest, OverlayConfig, UnpackedLayer, commit, snapshot, sweep, verify};
use crate::merged::{Found, Merged, WalkError};
use crate::record::{Head, RecordError};
use crate::unpack::UnpackOptions;
use crate::{
    Damage, DiffId, Info, LayerId, LayerInfo, OverlayMount, PrepareOptions, SnapshotError,
    SnapshotKey, Snapshotter, Usage, tree,
};

/// [`Snapshotter`] by overlayfs.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    layout: Layout,
    /// Heads of records that were read: a committed layer never changes, and records are long.
    heads: Mutex<HashMap<LayerId, Head>>,
}

impl OverlaySnapshotter {
    /// Opens a store and makes those of its directories that are missing.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn open(config: OverlayConfig) -> Result<Self, SnapshotError> {
        Ok(Self {
            layout: Layout::open(config)?,
            heads: Mutex::default(),
        })
    }

    fn heads(&self) -> MutexGuard<'_, HashMap<LayerId, Head>> {
        // Nobody panics while holding it, and a map of facts has no half-made state.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The head of a committed layer's record.
    pub(super) fn head(&self, id: &LayerId) -> Result<Option<Head>, SnapshotError> {
        if let Some(head) = self.heads().get(id) {
            return Ok(Some(head.clone()));
        }
        let failed = |source| SnapshotError::Record { layer: *id, source };
        let json = match std::fs::read(self.layout.layer(id).join("layer.json")) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A directory without a record is damage, no directory is an answer.
                return match self.layout.layer(id).symlink_metadata() {
                    Ok(_) => Err(failed(RecordError::Read(error))),
                    Err(_) => Ok(None),
                };
            }
            Err(error) => return Err(failed(RecordError::Read(error))),
        };
        let head = Head::parse(&json).map_err(failed)?;
        self.heads().insert(*id, head.clone());
        Ok(Some(head))
    }

    /// The merged view of `layers`, bottom to top.
    fn merged(&self, layers: &[LayerId]) -> Result<Merged, SnapshotError> {
        let paths: Vec<PathBuf> = layers
            .iter()
            .map(|id| self.layout.layer(id).join("fs"))
            .collect();
        for (id, path) in layers.iter().zip(&paths) {
            match rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Err(SnapshotError::NoLayer(*id)),
                other => other.map_err(SnapshotError::io("look at", path))?,
            };
        }
        Merged::open(&paths, self.layout.config().userxattr).map_err(SnapshotError::io(
            "open layers in",
            &self.layout.config().layers,
        ))
    }
}

impl Snapshotter for OverlaySnapshotter {
    fn missing(&self, image: &[DiffId]) -> Result<Vec<DiffId>, SnapshotError> {
        commit::missing(self, image)
    }

    fn begin_layer(&self, diff_id: &DiffId) -> Result<LayerIngest, SnapshotError> {
        let config = self.layout.config();
        let options = UnpackOptions {
            userxattr: config.userxattr,
            max_bytes: config.max_layer_bytes,
        };
        Ok(LayerIngest::new(*diff_id, self.layout.stage()?, options))
    }

    fn commit(
        &self,
        image: &[DiffId],
        layers: Vec<UnpackedLayer>,
    ) -> Result<Vec<LayerId>, SnapshotError> {
        commit::commit(self, image, layers)
    }

    fn layer(&self, id: &LayerId) -> Result<Option<LayerInfo>, SnapshotError> {
        Ok(self.head(id)?.map(|head| head.info(*id)))
    }

    fn layers(&self) -> Result<Vec<LayerId>, SnapshotError> {
        let dir = &self.layout.config().layers;
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(SnapshotError::io("list", dir))? {
            let name = entry.map_err(SnapshotError::io("list", dir))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<LayerId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn remove_layer(&self, id: &LayerId) -> Result<(), SnapshotError> {
        self.heads().remove(id);
        let (layer, away) = (self.layout.layer(id), self.layout.staging_name());
        match rustix::fs::renameat_with(CWD, &layer, CWD, &away, RenameFlags::NOREPLACE) {
            Ok(()) => tree::remove(&away),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(SnapshotError::io("rename away", &layer)(errno)),
        }
    }

    fn verify(&self, id: &LayerId) -> Result<Vec<Damage>, SnapshotError> {
        verify::verify(&self.layout, id)
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        layers: &[LayerId],
        options: &PrepareOptions,
    ) -> Result<OverlayMount, SnapshotError> {
        snapshot::prepare(&self.layout, key, layers, options)
    }

    fn view(&self, layers: &[LayerId]) -> Result<OverlayMount, SnapshotError> {
        snapshot::view(&self.layout, layers)
    }

    fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Info>, SnapshotError> {
        snapshot::info(&self.layout, key)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage, SnapshotError> {
        snapshot::usage(&self.layout, key)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<(), SnapshotError> {
        snapshot::remove(&self.layout, key)
    }

    fn sweep(&self) -> Result<usize, SnapshotError> {
        sweep::sweep(&self.layout)
    }

    fn read_file(
        &self,
        layers: &[LayerId],
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, SnapshotError> {
        let root = &self.layout.config().layers;
        let merged = self.merged(layers)?;
        let object = match merged.resolve(path.as_bytes(), true) {
            Ok(None) => return Ok(None),
            Ok(Some(Found::Dir(_))) => return Err(SnapshotError::NotAFile(path.to_owned())),
            Ok(Some(Found::Other(object))) => object,
            Err(WalkError::TooManyLinks) => {
                return Err(SnapshotError::TooManyLinks(path.to_owned()));
            }
            Err(WalkError::Io(errno)) => {
                return Err(SnapshotError::io("read an image in", root)(errno));
            }
        };
        if object.kind() != FileType::RegularFile {
            return Err(SnapshotError::NotAFile(path.to_owned()));
        }
        let size = u64::try_from(object.stat.st_size).unwrap_or(u64::MAX);
        if size > limit {
            return Err(SnapshotError::TooLarge {
                path: path.to_owned(),
                size,
                limit,
            });
        }
        let file = merged
            .open_at(object.layer, &object.path, OFlags::RDONLY)
            .map_err(SnapshotError::io("open a file of an image in", root))?;
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut content)
            .map_err(SnapshotError::io("read a file of an image in", root))?;
        Ok(Some(content))
    }
}

impl OverlaySnapshotter {
    /// Makes everything in staging durable.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        let staging = &self.layout.config().staging;
        rustix::fs::syncfs(open_dir(staging)?).map_err(SnapshotError::io("sync", staging))
    }
}
