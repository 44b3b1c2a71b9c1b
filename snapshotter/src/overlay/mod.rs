//! Snapshots by overlayfs.
//!
//! ```text
//! <layers>/<layer id>/fs/          0755  one lower directory of an overlay
//! <layers>/<layer id>/layer.json         files, sizes, checksums; complete whenever the name is
//! <layers>/.empty/{0,1}/                 for stacks of fewer layers than the kernel takes
//! <staging>/layer-<instance>-<n>/        an unpack, or a removal; swept by the next start
//! <active>/<key>/{upper,work}/           what a container writes, and the kernel's scratch
//! ```

mod commit;
mod copy;
mod fit;
mod ingest;
mod layout;
mod options;
mod probe;
mod snapshot;
mod store;
mod sweep;
mod verify;

pub use ingest::{LayerIngest, UnpackedLayer};
pub use options::OverlayConfig;
pub use probe::{OverlayProbe, probe};
pub use store::OverlaySnapshotter;
