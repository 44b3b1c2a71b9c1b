//! From unpacked layers to an image that is there, and back.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore_snapshotter::{DiffId, LayerId, SnapshotError};
use oci_spec::image::ImageConfiguration;

use super::ImageError;
use super::images::Inner;
use super::layers::{self, Parcel};
use super::model::Image;
use super::plan::LayerWork;
use super::record::{self, Documents, ImageRecord};
use super::source::Source;
use super::table::Entry;
use crate::base::clock::now_nanos;
use crate::base::id::{Digest, ImageId};

/// How often layers are looked for anew, where another pull that was to commit
/// a shared one failed.
const ATTEMPTS: usize = 3;

/// An image whose documents are fetched and verified.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: ImageId,
    pub(super) manifest_digest: Digest,
    pub(super) manifest_type: Option<String>,
    pub(super) documents: Documents,
    pub(super) config: ImageConfiguration,
    pub(super) layers: Vec<LayerWork>,
}

/// What the image is to be called.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
}

/// How far it came, told as it goes.
pub(super) type Progress<'a> = &'a (dyn Fn(super::Stage) + Send + Sync);

impl Inner {
    /// Fetches what is missing of the image and makes it an image of ours.
    ///
    /// The layers are pinned before it is looked which of them there are, and
    /// until the table has the image.
    pub(super) async fn obtain(
        &self,
        source: &Arc<Source>,
        candidate: Candidate,
        names: Names,
        progress: Progress<'_>,
    ) -> Result<ImageId, Arc<ImageError>> {
        let diff_ids: Vec<DiffId> = candidate.layers.iter().map(|l| l.diff_id).collect();
        let pin = self.marks.pin(layers::possible_ids(&diff_ids));
        let mut attempt = 1;
        let layers = loop {
            progress(super::Stage::Layers);
            let missing = self.missing(&diff_ids).await?;
            let parcels = self
                .layers
                .fetch(source, &candidate.layers, &missing)
                .await?;
            progress(super::Stage::Commit);
            match self.commit_layers(&diff_ids, parcels).await {
                Err(ImageError::Layer(SnapshotError::NoContent(layer))) if attempt < ATTEMPTS => {
                    tracing::debug!(%layer, "another pull dropped a shared layer");
                    attempt += 1;
                }
                other => break other?,
            }
        };
        let id = self.publish(candidate, layers, names).await?;
        drop(pin);
        Ok(id)
    }

    async fn missing(&self, diff_ids: &[DiffId]) -> Result<Vec<DiffId>, ImageError> {
        let _gate = self.gate.lock().await;
        let (snapshotter, diff_ids) = (self.snapshotter.clone(), diff_ids.to_vec());
        let job = self
            .tasks
            .spawn_blocking(move || snapshotter.missing(&diff_ids));
        Ok(job.await.map_err(|_| ImageError::CutOff)??)
    }

    async fn commit_layers(
        &self,
        diff_ids: &[DiffId],
        parcels: Vec<Parcel>,
    ) -> Result<Vec<LayerId>, ImageError> {
        // One at a time: who shares a layer with the commit before finds it stored.
        let _commit = self.commits.lock().await;
        let (snapshotter, diff_ids) = (self.snapshotter.clone(), diff_ids.to_vec());
        let job = self.tasks.spawn_blocking(move || {
            let unpacked = parcels.iter().filter_map(Parcel::take).collect();
            snapshotter.commit(&diff_ids, unpacked)
        });
        Ok(job.await.map_err(|_| ImageError::CutOff)??)
    }

    /// Writes the record, then lets readers see the image.
    async fn publish(
        &self,
        candidate: Candidate,
        layers: Vec<LayerId>,
        names: Names,
    ) -> Result<ImageId, ImageError> {
        let _writer = self.writer.lock().await;
        let current = self.table();
        let now = now_nanos();
        let old = current
            .by_id(&candidate.id)
            .map(|entry| entry.record.clone());
        let (mut tags, mut digests) = old.map(|r| (r.tags, r.digests)).unwrap_or_default();
        tags.extend(names.tags.into_iter().map(|tag| (tag, now)));
        digests.extend(names.digests);
        let size = self.size(&layers, &candidate.documents).await?;
        let record = ImageRecord {
            id: candidate.id.clone(),
            manifest: candidate.manifest_digest,
            manifest_type: candidate.manifest_type,
            layers,
            size,
            tags,
            digests,
        };
        // Who holds the configuration keeps the layers, so there is one of each.
        let held = current.by_id(&candidate.id).filter(|entry| !entry.damaged);
        let config = held.map_or_else(
            || Arc::new(candidate.config),
            |entry| entry.image.config.clone(),
        );
        let image = Arc::new(Image::new(&record, config, &self.pins));
        let mut table = (*current).clone();
        let entry = Entry {
            record: record.clone(),
            image,
            damaged: false,
        };
        let changed = table.put(entry, &self.pins);
        let others: Vec<ImageRecord> = changed
            .iter()
            .filter_map(|id| table.by_id(id).map(|e| e.record.clone()))
            .collect();
        self.write(record, candidate.documents, others).await?;
        self.table.send_replace(Arc::new(table));
        Ok(candidate.id)
    }

    /// The new image first: a tag that two records name is the later one's.
    async fn write(
        &self,
        record: ImageRecord,
        documents: Documents,
        others: Vec<ImageRecord>,
    ) -> Result<(), ImageError> {
        let records = self.records.clone();
        let job = self.tasks.spawn_blocking(move || {
            record::write(&records, &record, &documents)?;
            for other in others {
                records.write(other.id.hex(), &other, crate::store::Durability::Synced)?;
            }
            Ok(())
        });
        job.await.map_err(|_| ImageError::CutOff)?
    }

    async fn size(&self, layers: &[LayerId], documents: &Documents) -> Result<u64, ImageError> {
        let snapshotter = self.snapshotter.clone();
        let distinct: BTreeSet<LayerId> = layers.iter().copied().collect();
        let job = self.tasks.spawn_blocking(move || {
            distinct.iter().try_fold(0_u64, |sum, id| {
                let info = snapshotter.layer(id)?.ok_or(SnapshotError::NoLayer(*id))?;
                Ok::<_, SnapshotError>(sum.saturating_add(info.disk_bytes))
            })
        });
        let layers = job.await.map_err(|_| ImageError::CutOff)??;
        Ok(layers + (documents.manifest.len() + documents.config.len()) as u64)
    }

    /// Removes an image's record and names; says whether there was one. Its
    /// layers stay until they are collected.
    pub(super) async fn forget(&self, reference: &str) -> Result<bool, ImageError> {
        let _writer = self.writer.lock().await;
        let mut table = (*self.table()).clone();
        let Some(id) = table.resolve(reference)?.map(|e| e.record.id.clone()) else {
            return Ok(false);
        };
        let (records, hex) = (self.records.clone(), id.hex().to_owned());
        let job = self.tasks.spawn_blocking(move || records.remove(&hex));
        job.await.map_err(|_| ImageError::CutOff)??;
        if let Some(entry) = table.take(&id) {
            self.marks.lend(&entry.image);
        }
        self.table.send_replace(Arc::new(table));
        tracing::info!(%id, "image is removed");
        Ok(true)
    }
}
