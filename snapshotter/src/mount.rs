//! An overlay as a value, and mounting it.
//!
//! The new mount API takes one lower directory a call (`lowerdir+`, Linux 6.8), so the number of
//! layers is bounded by the kernel's 500 alone. Older kernels take all of them in one page of
//! options: there each is opened and named by `/proc/self/fd/N`, which keeps names short without
//! changing the working directory that all threads share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};
use serde::{Deserialize, Serialize};

/// Why an overlay was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no overlayfs.
    #[error("open the overlay file system type")]
    NoOverlay(#[source] io::Error),
    /// One option was refused. Kernels before 6.8 refuse `lowerdir+`.
    #[error("set overlay option {key} to {value:?}")]
    Option {
        /// The option.
        key: &'static str,
        /// Its value, empty for a flag.
        value: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The options as a whole were refused.
    #[error("create an overlay of {lower} lower directories over {first}", first = first.display())]
    Create {
        /// How many.
        lower: usize,
        /// The topmost of them.
        first: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mount was made and could not be attached, or not be detached.
    #[error("{op} {target}", target = target.display())]
    Target {
        /// What was tried.
        op: &'static str,
        /// Where.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An overlay mount as a value; whoever has the privilege makes it.
///
/// All `lower` directories are `<layers>/<layer id>/fs`, so that a container with a user namespace
/// needs one idmapped clone of `<layers>`: replace that prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayMount {
    /// Lower directories, TOP FIRST, as the kernel takes them. At least one; two without an upper.
    pub lower: Vec<PathBuf>,
    /// Where writes go; none makes a read-only overlay.
    pub upper: Option<PathBuf>,
    /// The kernel's scratch directory beside the upper; present exactly where `upper` is.
    pub work: Option<PathBuf>,
    /// Leave out every sync of the upper.
    pub volatile: bool,
    /// Keep overlayfs' own attributes in `user.overlay.` (mounting inside a user namespace).
    pub userxattr: bool,
}

/// Makes the overlay without attaching it anywhere. It vanishes with the last descriptor.
///
/// # Errors
/// [`MountError`]; `Option` with key `lowerdir+` on kernels before 6.8.
pub fn detached(overlay: &OverlayMount) -> Result<OwnedFd, MountError> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::NoOverlay(errno.into()))?;
    let set = |key: &'static str, value: &Path| {
        rustix::mount::fsconfig_set_string(&context, key, value).map_err(refused(key, value))
    };
    let flag = |key: &'static str| {
        rustix::mount::fsconfig_set_flag(&context, key).map_err(refused(key, Path::new("")))
    };
    for lower in &overlay.lower {
        set("lowerdir+", lower)?;
    }
    if let (Some(upper), Some(work)) = (&overlay.upper, &overlay.work) {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    if overlay.volatile && overlay.upper.is_some() {
        flag("volatile")?;
    }
    if overlay.userxattr {
        flag("userxattr")?;
    }
    rustix::mount::fsconfig_create(&context).map_err(not_created(overlay))?;
    let attributes = if overlay.upper.is_none() {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    };
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(not_created(overlay))
}

/// Mounts the overlay on the directory `target`, with the means that the kernel has.
///
/// # Errors
/// [`MountError`].
pub fn mount(overlay: &OverlayMount, target: &Path) -> Result<(), MountError> {
    match detached(overlay) {
        Ok(tree) => attach(&tree, target),
        Err(MountError::Option {
            key: "lowerdir+", ..
        }) => mount_by_string(overlay, target),
        Err(error) => Err(error),
    }
}

/// Attaches a detached mount to the directory `target`.
///
/// # Errors
/// [`MountError::Target`].
pub fn attach(tree: &OwnedFd, target: &Path) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", CWD, target, flags)
        .map_err(at_target("attach an overlay to", target))
}

/// Unmounts what is mounted on `target`, lazily, so that a busy file never keeps it.
///
/// # Errors
/// [`MountError::Target`]; EINVAL where nothing is mounted.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(at_target("unmount", target))
}

/// `mount(2)` for kernels that do not know `lowerdir+`: up to about 200 layers.
///
/// # Errors
/// [`MountError`].
pub fn mount_by_string(overlay: &OverlayMount, target: &Path) -> Result<(), MountError> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(refused("lowerdir", path))
    };
    let lower = overlay
        .lower
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("lowerdir={}", names(&lower));
    let mut upper = Vec::new();
    if let (Some(up), Some(work)) = (&overlay.upper, &overlay.work) {
        upper.push(open(up)?);
        upper.push(open(work)?);
    }
    if let [up, work] = upper.as_slice() {
        options.push_str(&format!(",upperdir={},workdir={}", name(up), name(work)));
        options.push_str(if overlay.volatile { ",volatile" } else { "" });
    }
    options.push_str(if overlay.userxattr { ",userxattr" } else { "" });
    let flags = if upper.is_empty() {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    let options = std::ffi::CString::new(options).map_err(|error| MountError::Target {
        op: "write mount options for",
        target: target.to_owned(),
        source: error.into(),
    })?;
    rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
        .map_err(not_created(overlay))
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn names(fds: &[OwnedFd]) -> String {
    fds.iter().map(name).collect::<Vec<_>>().join(":")
}

fn refused(key: &'static str, value: &Path) -> impl FnOnce(rustix::io::Errno) -> MountError {
    move |errno| MountError::Option {
        key,
        value: value.to_owned(),
        source: errno.into(),
    }
}

fn not_created(overlay: &OverlayMount) -> impl FnOnce(rustix::io::Errno) -> MountError {
    let first = overlay.lower.first().cloned().unwrap_or_default();
    let lower = overlay.lower.len();
    move |errno| MountError::Create {
        lower,
        first,
        source: errno.into(),
    }
}

fn at_target(op: &'static str, target: &Path) -> impl FnOnce(rustix::io::Errno) -> MountError {
    move |errno| MountError::Target {
        op,
        target: target.to_owned(),
        source: errno.into(),
    }
}
