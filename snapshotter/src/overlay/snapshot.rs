//! Active snapshots: an upper and a work directory below the container's own.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;

use super::layout::{Layout, make_dir, open_dir};
use crate::{Info, LayerId, OverlayMount, PrepareOptions, SnapshotError, SnapshotKey, Usage, tree};

/// The lower directories for `layers` (bottom to top), top first.
///
/// A layer that occurs twice is taken where it is topmost: everything its lower occurrence could
/// show or hide, the upper one does. The kernel refuses the same directory twice.
fn lower(layout: &Layout, layers: &[LayerId]) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut seen = std::collections::HashSet::new();
    let mut lower = Vec::with_capacity(layers.len() + 1);
    for id in layers.iter().rev() {
        if !seen.insert(id) {
            continue;
        }
        let fs = layout.layer(id).join("fs");
        match rustix::fs::statat(CWD, &fs, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => lower.push(fs),
            Err(Errno::NOENT) => return Err(SnapshotError::NoLayer(*id)),
            Err(errno) => return Err(SnapshotError::io("look at", &fs)(errno)),
        }
    }
    Ok(lower)
}

pub(super) fn view(layout: &Layout, layers: &[LayerId]) -> Result<OverlayMount, SnapshotError> {
    let mut lower = lower(layout, layers)?;
    let missing = 2_usize.saturating_sub(lower.len());
    lower.extend(layout.empty().into_iter().take(missing));
    let userxattr = layout.config().userxattr;
    Ok(OverlayMount {
        lower,
        upper: None,
        work: None,
        volatile: false,
        userxattr,
    })
}

pub(super) fn prepare(
    layout: &Layout,
    key: &SnapshotKey,
    layers: &[LayerId],
    options: &PrepareOptions,
) -> Result<OverlayMount, SnapshotError> {
    let mut lower = lower(layout, layers)?;
    if lower.is_empty() {
        lower.extend(layout.empty().into_iter().take(1));
    }
    let (upper, work) = (layout.upper(key), layout.work(key));
    match make_dir(&upper, 0o755) {
        Err(SnapshotError::Io { source, .. })
            if source.raw_os_error() == Some(Errno::EXIST.raw_os_error()) =>
        {
            return Err(SnapshotError::SnapshotExists(key.clone()));
        }
        other => other?,
    }
    let made = fill(&lower, &upper, options).and_then(|()| make_dir(&work, 0o700));
    if let Err(error) = made {
        // Nothing half-made stays; the failure that counts is the first.
        if let Err(also) = remove(layout, key) {
            tracing::warn!(%key, error = &also as &dyn std::error::Error, "half a snapshot stays");
        }
        return Err(error);
    }
    Ok(OverlayMount {
        lower,
        upper: Some(upper),
        work: Some(work),
        volatile: options.volatile,
        userxattr: layout.config().userxattr,
    })
}

/// The merged root shows the upper's mode and owner, so the upper takes over the image's.
fn fill(lower: &[PathBuf], upper: &Path, options: &PrepareOptions) -> Result<(), SnapshotError> {
    let Some(top) = lower.first() else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(open_dir(top)?).map_err(SnapshotError::io("look at", top))?;
    let dir: OwnedFd = open_dir(upper)?;
    let (user, group) = options
        .owner
        .map_or((stat.st_uid, stat.st_gid), |(user, group)| {
            (
                user.saturating_add(stat.st_uid),
                group.saturating_add(stat.st_gid),
            )
        });
    let (user, group) = (
        Uid::from_raw_unchecked(user),
        Gid::from_raw_unchecked(group),
    );
    rustix::fs::fchown(&dir, Some(user), Some(group)).map_err(SnapshotError::io("chown", upper))?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(SnapshotError::io("set the mode of", upper))
}

pub(super) fn info(layout: &Layout, key: &SnapshotKey) -> Result<Option<Info>, SnapshotError> {
    let (upper, work) = (layout.upper(key), layout.work(key));
    // The work directory is made last: without it the snapshot is only half there.
    match rustix::fs::statat(CWD, &work, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(SnapshotError::io("look at", &work)(errno)),
    }
    let meta = std::fs::symlink_metadata(&upper).map_err(SnapshotError::io("look at", &upper))?;
    let created = meta.created().or_else(|_| meta.modified());
    let created = created.map_err(SnapshotError::io("read the time of", &upper))?;
    Ok(Some(Info {
        key: key.clone(),
        upper,
        created,
    }))
}

pub(super) fn usage(layout: &Layout, key: &SnapshotKey) -> Result<Usage, SnapshotError> {
    tree::usage(&layout.upper(key))?.ok_or_else(|| SnapshotError::NoSnapshot(key.clone()))
}

/// Work first: what has an upper only is known to be half removed.
pub(super) fn remove(layout: &Layout, key: &SnapshotKey) -> Result<(), SnapshotError> {
    let work = tree::remove(&layout.work(key));
    tree::remove(&layout.upper(key)).and(work)
}
