//! Layers on their way: one download each, however many pulls want it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::{StreamExt, TryStreamExt, stream};
use longshore_snapshotter::unpack::UnpackError;
use longshore_snapshotter::{
    Compression, DiffId, LayerId, SnapshotError, Snapshotter, UnpackedLayer,
};
use tokio::sync::Semaphore;

use super::ImageError;
use super::flight::Flights;
use super::plan::LayerWork;
use super::source::{LayerReader, Source};
use super::verify::Verified;
use crate::base::tasks::Tasks;

/// An unpacked layer that several pulls may hold. The first that commits takes
/// it out; the others find it stored.
#[derive(Debug, Clone)]
pub(super) struct Parcel(Arc<Mutex<Option<UnpackedLayer>>>);

impl Parcel {
    pub(super) fn take(&self) -> Option<UnpackedLayer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Parcel {
    /// An unpacked layer that nobody commits is removed file by file: not on a
    /// thread that others wait for.
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1
            && let Some(layer) = self.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(layer));
        }
    }
}

type Outcome = Result<Parcel, Arc<ImageError>>;
type Contents = Weak<Mutex<Option<UnpackedLayer>>>;

/// Fetches and unpacks layers.
#[derive(Debug)]
pub(super) struct Layers {
    flights: Flights<LayerWork, Outcome>,
    workshop: Arc<Workshop>,
    /// Layers that one pull fetches at the same time.
    parallel: usize,
}

/// What every flight needs.
#[derive(Debug)]
struct Workshop {
    snapshotter: Arc<dyn Snapshotter>,
    tasks: Tasks,
    /// Layers that all pulls fetch at the same time.
    slots: Semaphore,
    /// Layers that are unpacked and that somebody is yet to commit.
    unpacked: Mutex<HashMap<LayerWork, Contents>>,
}

impl Layers {
    pub(super) fn new(snapshotter: Arc<dyn Snapshotter>, tasks: Tasks, parallel: usize) -> Self {
        let parallel = parallel.max(1);
        Self {
            flights: Flights::new(tasks.clone()),
            workshop: Arc::new(Workshop {
                snapshotter,
                tasks,
                slots: Semaphore::new(parallel * 2),
                unpacked: Mutex::default(),
            }),
            parallel,
        }
    }

    /// Fetches and unpacks those layers of the image that `missing` names.
    ///
    /// # Errors
    /// The first layer's that failed.
    pub(super) async fn fetch(
        &self,
        source: &Arc<Source>,
        image: &[LayerWork],
        missing: &[DiffId],
    ) -> Result<Vec<Parcel>, Arc<ImageError>> {
        let diff_ids: Arc<[DiffId]> = image.iter().map(|layer| layer.diff_id).collect();
        let mut wanted: HashSet<&DiffId> = missing.iter().collect();
        let todo: Vec<LayerWork> = image
            .iter()
            .filter(|layer| wanted.remove(&layer.diff_id))
            .cloned()
            .collect();
        stream::iter(todo)
            .map(|layer| self.one(source.clone(), diff_ids.clone(), layer))
            .buffer_unordered(self.parallel)
            .try_collect()
            .await
    }

    /// A joined flight goes by another pull's registry and credentials: where
    /// it fails, this pull tries by its own.
    async fn one(&self, source: Arc<Source>, image: Arc<[DiffId]>, layer: LayerWork) -> Outcome {
        loop {
            let ticket = self.flights.join(layer.clone(), false, || {
                let (workshop, source) = (self.workshop.clone(), source.clone());
                let (image, layer) = (image.clone(), layer.clone());
                async move { Ok(workshop.provide(&source, image, layer).await?) }
            });
            let led = ticket.led;
            match ticket.wait().await {
                Some(Err(_)) | None if !led => {}
                Some(outcome) => return outcome,
                None => return Err(Arc::new(ImageError::CutOff)),
            }
        }
    }
}

impl Workshop {
    /// The layer, unpacked. Between the end of a flight and the end of the
    /// commit that takes its layer, the layer is neither in flight nor stored:
    /// then it is in `unpacked`, and after that it is stored.
    async fn provide(
        &self,
        source: &Source,
        image: Arc<[DiffId]>,
        layer: LayerWork,
    ) -> Result<Parcel, ImageError> {
        if let Some(contents) = self.unpacked().get(&layer).and_then(Weak::upgrade) {
            return Ok(Parcel(contents));
        }
        let (snapshotter, diff_id) = (self.snapshotter.clone(), layer.diff_id);
        let look = self
            .tasks
            .spawn_blocking(move || snapshotter.missing(&image));
        if !look
            .await
            .map_err(|_| ImageError::CutOff)??
            .contains(&diff_id)
        {
            return Ok(Parcel(Arc::default()));
        }
        let unpacked = self.fetch(source, layer.clone()).await?;
        let contents = Arc::new(Mutex::new(Some(unpacked)));
        let mut waiting = self.unpacked();
        waiting.retain(|_, contents| contents.strong_count() > 0);
        waiting.insert(layer, Arc::downgrade(&contents));
        Ok(Parcel(contents))
    }

    async fn fetch(&self, source: &Source, layer: LayerWork) -> Result<UnpackedLayer, ImageError> {
        let _slot = self.slots.acquire().await;
        tracing::debug!(digest = %layer.blob.digest, size = layer.blob.size, "layer starts");
        let (reader, feed) = source.open(&layer.blob.digest).await?;
        let (snapshotter, digest) = (self.snapshotter.clone(), layer.blob.digest.clone());
        let unpacking = self
            .tasks
            .spawn_blocking(move || unpack(&*snapshotter, layer, reader));
        let fed = feed.run().await;
        let unpacked = unpacking.await.map_err(|_| ImageError::CutOff)?;
        // A broken connection also makes the blob too short: it is the cause.
        fed?;
        let unpacked = unpacked?;
        tracing::debug!(%digest, "layer unpacked");
        Ok(unpacked)
    }

    fn unpacked(&self) -> MutexGuard<'_, HashMap<LayerWork, Contents>> {
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unpacks a blob, and verifies both of its digests.
fn unpack(
    snapshotter: &dyn Snapshotter,
    layer: LayerWork,
    reader: LayerReader,
) -> Result<UnpackedLayer, ImageError> {
    let what = format!("layer {}", layer.blob.digest);
    let mut reader = Verified::new(reader, what, layer.blob);
    let unpacked = snapshotter
        .begin_layer(&layer.diff_id)?
        .unpack(&mut reader, Compression::Detect);
    match unpacked {
        // A blob that is not what the manifest names fails to unpack in any
        // way; that it is not is what has to be told.
        Err(error) if is_content(&error) => reader.finish().and(Err(error.into())),
        Err(error) => Err(error.into()),
        Ok(layer) => reader.finish().map(|()| layer),
    }
}

/// Whether unpacking failed because of what the blob holds, not because of
/// this machine.
fn is_content(error: &SnapshotError) -> bool {
    let SnapshotError::Unpack { source, .. } = error else {
        return false;
    };
    match source {
        UnpackError::Read(..)
        | UnpackError::Digest { .. }
        | UnpackError::Tar { .. }
        | UnpackError::Refused { .. } => true,
        UnpackError::Io { .. } | UnpackError::TooLarge(_) => false,
    }
}

/// Every id that a layer of this image may be stored under.
pub(super) fn possible_ids(diff_ids: &[DiffId]) -> Vec<LayerId> {
    let shared = diff_ids.iter().map(LayerId::shared);
    let chained = (1..=diff_ids.len()).filter_map(|n| diff_ids.get(..n).and_then(LayerId::chained));
    shared.chain(chained).collect()
}
