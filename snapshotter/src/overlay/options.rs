//! Where an overlay snapshotter keeps its things.

use std::path::PathBuf;

/// The directories of an [`OverlaySnapshotter`](crate::OverlaySnapshotter). `layers` and
/// `staging` must be on one file system, for a layer is renamed from one to the other.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// Committed layers, `<layers>/<layer id>/{fs,layer.json}`.
    pub layers: PathBuf,
    /// Unpacks and removals in flight; others may keep things here too.
    pub staging: PathBuf,
    /// Active snapshots, `<active>/<key>/{upper,work}`. Whoever owns `<active>/<key>` makes it
    /// before `prepare` and removes it after `remove`.
    pub active: PathBuf,
    /// Keep overlayfs' own attributes in `user.overlay.`, for mounts inside a user namespace.
    pub userxattr: bool,
    /// A layer with more bytes of content than this is refused. No limit by default.
    pub max_layer_bytes: u64,
}

impl OverlayConfig {
    /// The defaults for these directories.
    pub fn new(
        layers: impl Into<PathBuf>,
        staging: impl Into<PathBuf>,
        active: impl Into<PathBuf>,
    ) -> Self {
        Self {
            layers: layers.into(),
            staging: staging.into(),
            active: active.into(),
            userxattr: false,
            max_layer_bytes: u64::MAX,
        }
    }
}
