//! The front of all images.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use longshore_snapshotter::{LayerId, Snapshotter};
use tokio::sync::watch;

use super::ImageError;
use super::error::PullError;
use super::flight::Flights;
use super::gc::{Collector, Marks, Roots};
use super::import::{self, Imported};
use super::layers::Layers;
use super::model::{Image, Pins};
use super::platform::Platform;
use super::pull::{self, PullKey, PullRequest};
use super::record::ImageRecord;
use super::table::Table;
use super::usage::{self, FsUsage};
use crate::base::boot::boot_id;
use crate::base::id::ImageId;
use crate::base::tasks::Tasks;
use crate::config;
use crate::registry::{Registry, RegistryConfig};
use crate::store::Records;

/// Where images are kept and how they are pulled.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Records, manifests, configurations.
    pub records: PathBuf,
    /// Unpacked layers: the directory that the snapshotter keeps them in.
    pub layers: PathBuf,
    /// For archives that are being imported.
    pub staging: PathBuf,
    /// `[image]` of the configuration.
    pub settings: config::ImagesConfig,
}

/// All images: a cheap handle. See [`super`] for how they come and go.
#[derive(Clone)]
pub struct Images {
    pub(super) inner: Arc<Inner>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) config: ImagesConfig,
    pub(super) snapshotter: Arc<dyn Snapshotter>,
    pub(super) tasks: Tasks,
    pub(super) registry: Registry,
    pub(super) platform: Platform,
    pub(super) pins: Pins,
    pub(super) records: Records<ImageRecord>,
    /// What there is. Written only under `writer`.
    pub(super) table: watch::Sender<Arc<Table>>,
    /// Held over a change of record and table together.
    pub(super) writer: tokio::sync::Mutex<()>,
    /// Held while layers are committed.
    pub(super) commits: tokio::sync::Mutex<()>,
    /// Held while a pull looks which layers there are, and while one is swept.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    pub(super) marks: Arc<Marks>,
    pub(super) layers: Layers,
    pub(super) pulls: Flights<PullKey, Result<ImageId, PullError>>,
}

impl Images {
    /// Reads what is on disk and sweeps what an earlier run left half-made.
    /// Blocks; run it before anything is served. Collect garbage ([`Self::gc`])
    /// once all roots are registered.
    ///
    /// # Errors
    /// When a directory can't be read. An image that can't be used is reported
    /// in the log and stops nothing.
    pub fn open(
        config: ImagesConfig,
        snapshotter: Arc<dyn Snapshotter>,
        tasks: Tasks,
    ) -> Result<Self, ImageError> {
        let boot = boot_id().map_err(ImageError::io("read", "/proc/sys/kernel/random/boot_id"))?;
        let records = Records::open(&config.records, boot)?;
        let swept = snapshotter.sweep()?;
        import::sweep(&config.staging)?;
        tracing::debug!(swept, "staging is clean");
        let pins = Pins::new(&config.settings.pinned);
        let (entries, left_alone) = super::load::entries(&records, &*snapshotter)?;
        let marks = Arc::new(Marks::default());
        marks.register(Arc::new(move || left_alone.clone()));
        let settings = &config.settings;
        let registry = Registry::new(RegistryConfig {
            ca_files: settings.ca_files.clone(),
            progress_timeout: settings.progress_timeout,
            ..RegistryConfig::default()
        });
        let inner = Inner {
            table: watch::Sender::new(Arc::new(Table::load(entries, &pins))),
            layers: Layers::new(snapshotter.clone(), tasks.clone(), settings.parallel_layers),
            pulls: Flights::new(tasks.clone()),
            registry,
            platform: Platform::host(),
            pins,
            records,
            writer: tokio::sync::Mutex::default(),
            commits: tokio::sync::Mutex::default(),
            gate: Arc::default(),
            marks,
            config,
            snapshotter,
            tasks,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The image of that id, start of an id, tag or digest; `None` if there is
    /// none, or if its layers are not all there.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::AmbiguousId`].
    pub fn get(&self, reference: &str) -> Result<Option<Arc<Image>>, ImageError> {
        let table = self.inner.table();
        let found = table.resolve(reference)?;
        Ok(found.filter(|e| !e.damaged).map(|e| e.image.clone()))
    }

    /// All images, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        let table = self.inner.table();
        let whole = table.entries().filter(|e| !e.damaged);
        whole.map(|e| e.image.clone()).collect()
    }

    /// Pulls an image, or joins the same pull where one runs. Dropping the
    /// future does not stop the pull.
    ///
    /// # Errors
    /// [`PullError`], the same for all who joined.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, PullError> {
        pull::join(&self.inner, request).await
    }

    /// Removes an image with all its names, and the layers that nothing else
    /// names. An image that isn't there is removed already. Dropping the future
    /// does not stop it.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::AmbiguousId`], [`ImageError::Store`].
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let (inner, reference) = (self.inner.clone(), reference.to_owned());
        let job = async move {
            if inner.forget(&reference).await? {
                inner.collect().await;
            }
            Ok(())
        };
        let removed = self.inner.tasks.spawn(job).await;
        removed.map_err(|_| ImageError::CutOff)?
    }

    /// Imports the images of an OCI image layout (directory, tar, tar.gz) or of
    /// a docker-archive. `names` replace the names that the archive holds, if
    /// it holds one image. Dropping the future does not stop it.
    ///
    /// # Errors
    /// [`ImageError`]. Images before the one that failed stay.
    pub async fn import(
        &self,
        path: PathBuf,
        names: Vec<String>,
    ) -> Result<Vec<Imported>, ImageError> {
        let inner = self.inner.clone();
        let job = async move { import::run(&inner, path, names).await };
        let imported = self.inner.tasks.spawn(job).await;
        imported.map_err(|_| ImageError::CutOff)?
    }

    /// What images take on disk, one entry per file system.
    ///
    /// # Errors
    /// [`ImageError::Layer`] when the layers can't be listed.
    pub async fn fs_info(&self) -> Result<Vec<FsUsage>, ImageError> {
        usage::measure(&self.inner).await
    }

    /// Adds layers that garbage collection must keep, named anew each time.
    /// After [`Self::remove`] an image's layers live as long as a root names
    /// them; call [`Self::gc`] when a root has let go.
    pub fn register_roots(&self, roots: Arc<dyn Fn() -> Vec<LayerId> + Send + Sync>) {
        let roots: Roots = roots;
        self.inner.marks.register(roots);
    }

    /// Removes layers that nothing names. Failures are logged: what stays is
    /// tried again next time.
    pub async fn gc(&self) {
        let inner = self.inner.clone();
        let job = self.inner.tasks.spawn(async move { inner.collect().await });
        if job.await.is_err() {
            tracing::error!("garbage collection was cut off");
        }
    }
}

impl Inner {
    pub(super) fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    async fn collect(&self) {
        let collector = Collector {
            snapshotter: self.snapshotter.clone(),
            marks: self.marks.clone(),
            gate: self.gate.clone(),
            tasks: self.tasks.clone(),
        };
        match collector.run(|| self.table()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "layers that nothing names are removed"),
            Err(error) => tracing::error!(
                error = crate::base::chain::chain(&error),
                "a layer that nothing names stays"
            ),
        }
    }
}
