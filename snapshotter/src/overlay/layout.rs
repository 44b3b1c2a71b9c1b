//! Names on disk and the directories behind them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::OverlayConfig;
use crate::{LayerId, SnapshotError, SnapshotKey, tree};

/// The lower directory of an image without layers, and the second of a view of one layer: without
/// an upper the kernel wants two.
const EMPTY: &str = ".empty";
/// What our names in the staging directory start with; others keep downloads there.
pub(super) const STAGED: &str = "layer-";

/// Names of one instance's things.
#[derive(Debug)]
pub(super) struct Layout {
    config: OverlayConfig,
    /// Distinguishes what this instance has in flight from what an earlier one left.
    instance: String,
    next: AtomicU64,
}

pub(super) const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, SnapshotError> {
    rustix::fs::open(path, DIR, Mode::empty()).map_err(SnapshotError::io("open", path))
}

/// Makes a directory with exactly `mode`, whatever the process' umask. It must not exist.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    rustix::fs::mkdirat(CWD, path, Mode::RWXU).map_err(SnapshotError::io("make", path))?;
    rustix::fs::chmodat(
        CWD,
        path,
        Mode::from_raw_mode(mode),
        rustix::fs::AtFlags::empty(),
    )
    .map_err(SnapshotError::io("set the mode of", path))
}

/// As [`make_dir`], but one that exists is left as it is.
fn ensure_dir(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    match make_dir(path, mode) {
        Err(SnapshotError::Io { source, .. })
            if source.raw_os_error() == Some(Errno::EXIST.raw_os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

impl Layout {
    /// Makes the directories that are missing. A container with a user namespace searches
    /// `layers`, so it is 0711; `staging` is nobody's business.
    pub(super) fn open(config: OverlayConfig) -> Result<Self, SnapshotError> {
        ensure_dir(&config.layers, 0o711)?;
        ensure_dir(&config.staging, 0o700)?;
        ensure_dir(&config.active, 0o711)?;
        let empty = config.layers.join(EMPTY);
        for dir in [empty.clone(), empty.join("0"), empty.join("1")] {
            ensure_dir(&dir, 0o755)?;
        }
        // A pid comes back after a reboot, a start time together with it does not.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let instance = format!("{STAGED}{}-{:x}-", std::process::id(), now.as_nanos());
        Ok(Self {
            config,
            instance,
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn config(&self) -> &OverlayConfig {
        &self.config
    }

    /// Two directories with nothing in them.
    pub(super) fn empty(&self) -> [PathBuf; 2] {
        ["0", "1"].map(|name| self.config.layers.join(EMPTY).join(name))
    }

    pub(super) fn layer(&self, id: &LayerId) -> PathBuf {
        self.config.layers.join(id.hex())
    }

    pub(super) fn upper(&self, key: &SnapshotKey) -> PathBuf {
        self.config.active.join(key.as_str()).join("upper")
    }

    pub(super) fn work(&self, key: &SnapshotKey) -> PathBuf {
        self.config.active.join(key.as_str()).join("work")
    }

    /// Whether a name in staging is ours and of an earlier instance.
    pub(super) fn is_leftover(&self, name: &str) -> bool {
        name.starts_with(STAGED) && !name.starts_with(&self.instance)
    }

    /// A name in staging that nothing else has.
    pub(super) fn staging_name(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.config
            .staging
            .join(format!("{}{number}", self.instance))
    }

    /// A staging directory with an empty `fs`.
    pub(super) fn stage(&self) -> Result<Staged, SnapshotError> {
        let path = self.staging_name();
        make_dir(&path, 0o700)?;
        let staged = Staged { path: Some(path) };
        make_dir(&staged.fs(), 0o755)?;
        Ok(staged)
    }
}

/// A directory in staging; removed when dropped.
#[derive(Debug)]
pub(super) struct Staged {
    /// `None` once it got its final name.
    path: Option<PathBuf>,
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    pub(super) fn fs(&self) -> PathBuf {
        self.path().join("fs")
    }

    pub(super) fn record(&self) -> PathBuf {
        self.path().join("layer.json")
    }

    /// Gives it its final name; `false` if that is taken, and the directory is dropped.
    pub(super) fn rename_to(mut self, target: &Path) -> Result<bool, SnapshotError> {
        // The staging directory was 0700, a layer's is searched by user-namespaced containers.
        let mode = Mode::from_raw_mode(0o711);
        rustix::fs::chmodat(CWD, self.path(), mode, rustix::fs::AtFlags::empty())
            .map_err(SnapshotError::io("set the mode of", self.path()))?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, self.path(), CWD, target, flags) {
            Ok(()) => {
                self.path = None;
                Ok(true)
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(SnapshotError::io("rename a layer to", target)(errno)),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = tree::remove(&path) {
            // The next start sweeps it.
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error,
                "staging directory was not removed");
        }
    }
}
