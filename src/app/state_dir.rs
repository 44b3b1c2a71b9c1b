//! The state directory is a private tmpfs.
//!
//! Root file systems and volumes are staged below it by shims in mount
//! namespaces of their own; were it on a shared mount, their mounts would
//! propagate to the host. It is mounted once and found again by later daemons.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// A step of the preparation failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub(super) struct StateDirError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes sure that `state` is a mount point of a private tmpfs.
///
/// # Errors
/// [`StateDirError`] naming the step.
pub(super) fn prepare(state: &Path) -> Result<(), StateDirError> {
    let fail = |operation| {
        move |error: nix::Error| StateDirError {
            operation,
            path: state.to_owned(),
            source: error.into(),
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(state)
        .map_err(|source| StateDirError {
            operation: "create state directory",
            path: state.to_owned(),
            source,
        })?;
    if !is_own_tmpfs(state).map_err(fail("inspect state directory"))? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("longshore"),
            state,
            Some("tmpfs"),
            flags,
            Some("mode=0711"),
        )
        .map_err(fail("mount tmpfs on state directory"))?;
    }
    mount(
        None::<&str>,
        state,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(fail("make mount private"))
}

/// A tmpfs whose root is the directory itself.
fn is_own_tmpfs(state: &Path) -> nix::Result<bool> {
    if statfs(state)?.filesystem_type() != TMPFS_MAGIC {
        return Ok(false);
    }
    let parent = state.parent().unwrap_or(Path::new("/"));
    Ok(nix::sys::stat::stat(state)?.st_dev != nix::sys::stat::stat(parent)?.st_dev)
}

/// Makes the directories below the roots, none of them open to others.
///
/// # Errors
/// [`StateDirError`] naming the directory.
pub(super) fn make(directories: &[(PathBuf, u32)]) -> Result<(), StateDirError> {
    for (path, mode) in directories {
        DirBuilder::new()
            .recursive(true)
            .mode(*mode)
            .create(path)
            .map_err(|source| StateDirError {
                operation: "create directory",
                path: path.clone(),
                source,
            })?;
    }
    Ok(())
}
