//! Layers and snapshots: what an image is made of on disk, and what a container writes to.
//!
//! # Vocabulary
//!
//! - A *layer* is one unpacked tar of an image. It is known by its [`DiffId`] and stored under a
//!   [`LayerId`]; once committed it never changes and any number of images share it.
//! - A *snapshot* is what one container writes, on top of committed layers. It is *active* from
//!   [`Snapshotter::prepare`] to [`Snapshotter::remove`] and is known by its [`SnapshotKey`].
//! - A *view* is a read-only stack of layers. It takes nothing on disk and needs no removal.
//! - Lists of layers go **bottom to top**, as in an image's configuration; only the lower
//!   directories in an [`OverlayMount`] go top first, as the kernel takes them.
//!
//! # Life of a layer
//!
//! ```text
//!  begin_layer --> LayerIngest --unpack(stream)--> UnpackedLayer --commit(image)--> LayerId
//!                       |                               |                             |
//!                     drop: staging directory removed <-'                        remove_layer
//! ```
//!
//! Layers of one image unpack in parallel and in any order, for unpacking looks at no parent.
//! Some layers mean something else on other parents, though: their tar implies a directory that
//! it doesn't describe (it must keep the mode, owner and attributes it has below), holds a hard
//! link to a file below, or declares the root opaque. [`Snapshotter::commit`] gets the whole
//! image, so it knows the parents: it fits such a layer to them and stores the result under the
//! chain's id, without a second download, and leaves the shared layer as it is.
//!
//! All calls block; call them from a thread that may.
//!
//! ```no_run
//! use longshore_snapshotter::{
//!     Compression, DiffId, OverlayConfig, OverlaySnapshotter, PrepareOptions, Snapshotter,
//! };
//! # fn blob(_: &DiffId) -> std::io::Empty { std::io::empty() }
//! # fn example(image: &[DiffId]) -> Result<(), Box<dyn std::error::Error>> {
//! let store = OverlaySnapshotter::open(OverlayConfig::new(
//!     "/var/lib/longshore/layers",
//!     "/var/lib/longshore/staging",
//!     "/var/lib/longshore/containers",
//! ))?;
//! let mut unpacked = Vec::new();
//! for diff_id in store.missing(image)? {
//!     let ingest = store.begin_layer(&diff_id)?;
//!     unpacked.push(ingest.unpack(blob(&diff_id), Compression::Detect)?);
//! }
//! let layers = store.commit(image, unpacked)?;
//! let passwd = store.read_file(&layers, "etc/passwd", 1 << 20)?;
//! let overlay = store.prepare(&"web-1".parse()?, &layers, &PrepareOptions::default())?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod info;
mod layer;
mod merged;
pub mod mount;
mod overlay;
mod record;
mod tree;
pub mod unpack;

pub use error::SnapshotError;
pub use info::{Damage, Info, InvalidKey, LayerInfo, PrepareOptions, SnapshotKey, Usage};
pub use layer::{DiffId, InvalidDigest, LayerId};
pub use mount::OverlayMount;
pub use overlay::{
    LayerIngest, OverlayConfig, OverlayProbe, OverlaySnapshotter, UnpackedLayer, probe,
};
pub use record::RecordError;
pub use unpack::Compression;

/// Keeps layers and makes snapshots of them. See the [crate] for the vocabulary.
///
/// Every method may be called from many threads at once. Two callers that commit the same layer
/// both succeed. The caller decides what is garbage: it removes no layer that an image, a
/// snapshot or a pull in flight still names.
pub trait Snapshotter: std::fmt::Debug + Send + Sync {
    /// Those layers of `image` (bottom to top) that must be fetched, each once, bottom to top.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn missing(&self, image: &[DiffId]) -> Result<Vec<DiffId>, SnapshotError>;

    /// Makes a place to unpack one layer to. Dropping the result removes it.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn begin_layer(&self, diff_id: &DiffId) -> Result<LayerIngest, SnapshotError>;

    /// Makes `layers` durable and answers what every layer of `image` (the diffIDs of the whole
    /// image, bottom to top) is stored under, in that order: what [`prepare`](Self::prepare) takes.
    ///
    /// With no `layers` it answers for an image whose layers are all stored. Either every layer
    /// of the image is stored afterwards or the call fails; layers that were made durable before
    /// a failure stay and save the next pull their download. Unpacked layers that the image does
    /// not name are dropped.
    ///
    /// # Errors
    /// [`SnapshotError::NoContent`] for a layer that is neither stored nor given, [`SnapshotError::Resolve`] for a
    /// layer that cannot be fitted to its parents, [`SnapshotError::Io`], [`SnapshotError::Record`].
    fn commit(
        &self,
        image: &[DiffId],
        layers: Vec<UnpackedLayer>,
    ) -> Result<Vec<LayerId>, SnapshotError>;

    /// The committed layer `id`, or `None`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`], [`SnapshotError::Record`].
    fn layer(&self, id: &LayerId) -> Result<Option<LayerInfo>, SnapshotError>;

    /// The ids of all committed layers, sorted. [`layer`](Self::layer) tells more of each; one
    /// unreadable record does not hide the others.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn layers(&self) -> Result<Vec<LayerId>, SnapshotError>;

    /// Removes a layer. No such layer is success. A crash midway leaves none under its name.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn remove_layer(&self, id: &LayerId) -> Result<(), SnapshotError>;

    /// Compares a layer's files with what was written; empty means undamaged. Reads all of it.
    ///
    /// # Errors
    /// [`SnapshotError::NoLayer`], [`SnapshotError::Io`], [`SnapshotError::Record`].
    fn verify(&self, id: &LayerId) -> Result<Vec<Damage>, SnapshotError>;

    /// Makes a writable snapshot on `layers` (bottom to top; repeated ids are fine).
    ///
    /// # Errors
    /// [`SnapshotError::SnapshotExists`], [`SnapshotError::NoLayer`], [`SnapshotError::Io`].
    fn prepare(
        &self,
        key: &SnapshotKey,
        layers: &[LayerId],
        options: &PrepareOptions,
    ) -> Result<OverlayMount, SnapshotError>;

    /// A read-only stack of `layers` (bottom to top).
    ///
    /// # Errors
    /// [`SnapshotError::NoLayer`], [`SnapshotError::Io`].
    fn view(&self, layers: &[LayerId]) -> Result<OverlayMount, SnapshotError>;

    /// The active snapshot `key`, or `None`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Info>, SnapshotError>;

    /// What the snapshot takes on disk. Reads the whole tree; fine while the container runs.
    ///
    /// # Errors
    /// [`SnapshotError::NoSnapshot`], [`SnapshotError::Io`].
    fn usage(&self, key: &SnapshotKey) -> Result<Usage, SnapshotError>;

    /// Removes a snapshot, also a half-made one. No such snapshot is success.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    fn remove(&self, key: &SnapshotKey) -> Result<(), SnapshotError>;

    /// Removes what an earlier run left in staging and answers how many things that were. What
    /// this instance has in flight stays.
    ///
    /// # Errors
    /// The first [`SnapshotError::Io`], after the rest has been tried.
    fn sweep(&self) -> Result<usize, SnapshotError>;

    /// Reads one file of the merged image without mounting it. `path` is taken from the image's
    /// root, symbolic links (up to 40) are followed and never leave it. `None` if there is none.
    ///
    /// # Errors
    /// [`SnapshotError::NotAFile`], [`SnapshotError::TooLarge`] for more than `limit` bytes,
    /// [`SnapshotError::TooManyLinks`], [`SnapshotError::NoLayer`], [`SnapshotError::Io`].
    fn read_file(
        &self,
        layers: &[LayerId],
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, SnapshotError>;
}
