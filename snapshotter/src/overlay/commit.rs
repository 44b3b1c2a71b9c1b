//! Making the layers of one image durable.
//!
//! Records are written first, then one `syncfs` covers all content and all records, and only then
//! do layers get their names. So whatever has a name is complete, at the price of one sync for
//! an image.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::fit::{self, Source};
use super::layout::{Staged, open_dir};
use super::{OverlaySnapshotter, UnpackedLayer};
use crate::merged::Merged;
use crate::record::{Head, LayerRecord};
use crate::{DiffId, LayerId, SnapshotError};

pub(super) fn missing(
    store: &OverlaySnapshotter,
    image: &[DiffId],
) -> Result<Vec<DiffId>, SnapshotError> {
    let mut seen = HashSet::new();
    let mut missing = Vec::new();
    for (index, diff_id) in image.iter().enumerate() {
        let chain = image.get(..=index).unwrap_or_default();
        if !seen.insert(diff_id) {
            continue;
        }
        let mut stored = store.head(&LayerId::shared(diff_id))?.is_some();
        if let Some(id) = LayerId::chained(chain) {
            stored = stored || store.head(&id)?.is_some();
        }
        if !stored {
            missing.push(*diff_id);
        }
    }
    Ok(missing)
}

/// The layers of one image as they fall into place, bottom to top.
struct Plan<'a> {
    store: &'a OverlaySnapshotter,
    unpacked: HashMap<DiffId, UnpackedLayer>,
    /// Which of `unpacked` are taken as they are.
    taken: HashSet<DiffId>,
    /// Fitted to their parents.
    fitted: Vec<(LayerId, Staged, LayerRecord)>,
    ids: Vec<LayerId>,
    /// The `fs` directory of each of `ids`.
    paths: Vec<PathBuf>,
}

pub(super) fn commit(
    store: &OverlaySnapshotter,
    image: &[DiffId],
    layers: Vec<UnpackedLayer>,
) -> Result<Vec<LayerId>, SnapshotError> {
    let mut plan = Plan {
        store,
        unpacked: layers
            .into_iter()
            .map(|layer| (*layer.diff_id(), layer))
            .collect(),
        taken: HashSet::new(),
        fitted: Vec::new(),
        ids: Vec::new(),
        paths: Vec::new(),
    };
    for index in 0..image.len() {
        plan.place(image.get(..=index).unwrap_or_default())?;
    }
    plan.publish()
}

impl Plan<'_> {
    /// Finds or makes the topmost layer of `chain`; those below it are placed.
    fn place(&mut self, chain: &[DiffId]) -> Result<(), SnapshotError> {
        let (Some(diff_id), Some(chained)) = (chain.last(), LayerId::chained(chain)) else {
            return Ok(());
        };
        let shared = LayerId::shared(diff_id);
        if chained != shared && self.store.head(&chained)?.is_some() {
            self.push(chained, self.store.layout().layer(&chained).join("fs"));
            return Ok(());
        }
        let stored = self.store.head(&shared)?;
        let from_store = stored.is_some();
        let source = self.source(diff_id, stored)?;
        let config = self.store.layout().config();
        let parents = Merged::open(&self.paths, config.userxattr)
            .map_err(SnapshotError::io("open layers in", &config.layers))?;
        let leans = source
            .leans(&parents)
            .map_err(|source| SnapshotError::Resolve {
                diff_id: *diff_id,
                source,
            })?;
        if leans {
            let (staged, record) = fit::fit(self.store.layout(), &source, &self.paths)?;
            self.push(chained, staged.fs());
            self.fitted.push((chained, staged, record));
            return Ok(());
        }
        let fs = source.fs.clone();
        if !from_store {
            self.taken.insert(*diff_id);
        }
        self.push(shared, fs);
        Ok(())
    }

    fn push(&mut self, id: LayerId, fs: PathBuf) {
        self.ids.push(id);
        self.paths.push(fs);
    }

    fn source(&self, diff_id: &DiffId, stored: Option<Head>) -> Result<Source<'_>, SnapshotError> {
        let layout = self.store.layout();
        if let Some(head) = stored {
            let layer = layout.layer(&LayerId::shared(diff_id));
            return Ok(Source {
                fs: layer.join("fs"),
                head,
                record: None,
                links: &[],
            });
        }
        let layer = self
            .unpacked
            .get(diff_id)
            .ok_or(SnapshotError::NoContent(*diff_id))?;
        Ok(Source {
            fs: layer.staged.fs(),
            head: layer.record.head.clone(),
            record: Some(&layer.record),
            links: &layer.pending,
        })
    }

    fn publish(mut self) -> Result<Vec<LayerId>, SnapshotError> {
        let mut ready = std::mem::take(&mut self.fitted);
        for diff_id in &self.taken {
            if let Some(UnpackedLayer { staged, record, .. }) = self.unpacked.remove(diff_id) {
                ready.push((LayerId::shared(diff_id), staged, record));
            }
        }
        if ready.is_empty() {
            return Ok(self.ids);
        }
        for (_, staged, record) in &ready {
            let path = staged.record();
            let json = serde_json::to_vec(record).map_err(SnapshotError::io("encode", &path))?;
            std::fs::write(&path, json).map_err(SnapshotError::io("write", &path))?;
        }
        self.store.sync()?;
        let layout = self.store.layout();
        for (id, staged, _) in ready {
            // Taken means that somebody else committed the same layer: theirs is as good.
            staged.rename_to(&layout.layer(&id))?;
        }
        let layers = &layout.config().layers;
        rustix::fs::fsync(open_dir(layers)?).map_err(SnapshotError::io("sync", layers))?;
        Ok(self.ids)
    }
}
