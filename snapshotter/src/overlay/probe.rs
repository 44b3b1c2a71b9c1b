//! What the kernel can do, found by doing it on detached mounts that nobody ever sees.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::layout::make_dir;
use crate::mount::{self, MountError};
use crate::{OverlayMount, SnapshotError, tree};

/// What overlayfs can do on one file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OverlayProbe {
    /// A writable overlay can be mounted and takes a file.
    pub overlay: bool,
    /// Lower directories can be given one at a time (Linux 6.8).
    pub lowerdir_append: bool,
    /// `volatile` is known (Linux 5.10).
    pub volatile: bool,
    /// `userxattr` is known (Linux 5.11).
    pub userxattr: bool,
}

/// Tries overlays with everything in a fresh directory below `dir`, which is removed again.
///
/// # Errors
/// [`SnapshotError::Io`] where the directory cannot be used at all. What the kernel refuses is an answer.
pub fn probe(dir: &Path) -> Result<OverlayProbe, SnapshotError> {
    let scratch = dir.join(format!("layer-probe-{}", std::process::id()));
    tree::remove(&scratch)?;
    make_dir(&scratch, 0o700)?;
    let found = probe_in(&scratch);
    let removed = tree::remove(&scratch);
    let found = found?;
    removed.map(|()| found)
}

fn probe_in(scratch: &Path) -> Result<OverlayProbe, SnapshotError> {
    let plain = attempt(scratch, "plain", |_| ())?;
    let appends = !matches!(
        plain,
        Err(MountError::Option {
            key: "lowerdir+",
            ..
        })
    );
    let volatile = attempt(scratch, "volatile", |overlay| overlay.volatile = true)?;
    let userxattr = attempt(scratch, "userxattr", |overlay| overlay.userxattr = true)?;
    let by_string = || -> Result<bool, SnapshotError> {
        let (overlay, target) = (overlay(scratch, "string")?, scratch.join("target"));
        make_dir(&target, 0o700)?;
        let mounted = mount::mount_by_string(&overlay, &target);
        if mounted.is_ok() {
            mount::unmount(&target).map_err(SnapshotError::Mount)?;
        }
        Ok(mounted.is_ok())
    };
    Ok(OverlayProbe {
        overlay: plain.is_ok() || (!appends && by_string()?),
        lowerdir_append: plain.is_ok(),
        volatile: volatile.is_ok(),
        userxattr: userxattr.is_ok(),
    })
}

fn overlay(scratch: &Path, name: &str) -> Result<OverlayMount, SnapshotError> {
    let base = scratch.join(name);
    make_dir(&base, 0o700)?;
    let dir = |part: &str| -> Result<PathBuf, SnapshotError> {
        let path = base.join(part);
        make_dir(&path, 0o755)?;
        Ok(path)
    };
    Ok(OverlayMount {
        lower: vec![dir("lower")?],
        upper: Some(dir("upper")?),
        work: Some(dir("work")?),
        volatile: false,
        userxattr: false,
    })
}

fn attempt(
    scratch: &Path,
    name: &str,
    change: impl FnOnce(&mut OverlayMount),
) -> Result<Result<(), MountError>, SnapshotError> {
    let mut overlay = overlay(scratch, name)?;
    change(&mut overlay);
    let tree = match mount::detached(&overlay) {
        Ok(tree) => tree,
        Err(error) => return Ok(Err(error)),
    };
    // An overlay that the kernel cannot write to is mounted read-only without an error.
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(match rustix::fs::openat(&tree, "file", flags, Mode::RWXU) {
        Ok(_) => Ok(()),
        Err(errno) => Err(MountError::Target {
            op: "write to an overlay in",
            target: scratch.join(name),
            source: errno.into(),
        }),
    })
}
