//! The container's root file system, in a mount namespace that only the
//! worker and the container have: no mount of a container ever exists on the
//! host, so none can leak and none has to be unmounted.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore_proto::shim::v1::Rootfs;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys::{self, MountAttr};

/// Longest value that fsconfig(2) takes as a string.
const FSCONFIG_STRING_MAX: usize = 255;

/// A mount operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct MountError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// Attaches operation and object to a failed call.
pub(crate) fn at<E: Into<io::Error>>(
    operation: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> MountError {
    let path = path.as_ref().to_owned();
    move |source| MountError {
        operation,
        path,
        source: source.into(),
    }
}

/// Enters a new mount namespace and mounts a tmpfs on `stage` in it, whose
/// directories are passable for everybody: a mapped root searches them too.
///
/// # Errors
/// The step that failed.
pub fn enter_namespace(stage: &Path) -> Result<(), MountError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(at("unshare mount namespace for", stage))?;
    isolate(stage)?;
    let context =
        fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen tmpfs", stage))?;
    fsconfig_set_string(&context, "mode", "0711").map_err(at("configure tmpfs", stage))?;
    fsconfig_set_string(&context, "source", "longshore").map_err(at("configure tmpfs", stage))?;
    fsconfig_create(&context).map_err(at("create tmpfs", stage))?;
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
    .map_err(at("fsmount tmpfs", stage))?;
    attach(&mount, stage)
}

/// Makes the mount that holds `stage` private in this namespace. The daemon's
/// tmpfs already is; a shared one would send our mounts to the host.
fn isolate(stage: &Path) -> Result<(), MountError> {
    let stage = stage
        .canonicalize()
        .map_err(at("resolve stage directory", stage))?;
    for dir in stage.ancestors() {
        let stat = rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::BASIC_STATS)
            .map_err(at("statx", dir))?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            let mount = open_path(dir)?;
            let private = MountAttr {
                propagation: libc::MS_PRIVATE,
                ..MountAttr::default()
            };
            return sys::mount_setattr(mount.as_fd(), false, &private)
                .map_err(at("make private", dir));
        }
    }
    Ok(())
}

fn open_path(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(at("open", path))
}

/// A detached copy of what is mounted at `source`.
///
/// # Errors
/// open_tree(2)'s.
pub fn clone_mount(source: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, source, flags).map_err(at("clone mount", source))
}

/// Mounts a detached mount on `target`.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach(mount: &OwnedFd, target: &Path) -> Result<(), MountError> {
    move_mount(
        mount,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(at("mount on", target))
}

/// Makes a directory that everybody may pass.
///
/// # Errors
/// mkdir(2)'s; that it exists is none.
pub fn passable_dir(path: &Path) -> Result<(), MountError> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at("create directory", path)(error)),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(at("chmod", path))
}

/// Mounts `rootfs` on `target`; helping mounts go below `stage`.
///
/// # Errors
/// The step that failed.
pub fn mount(rootfs: &Rootfs, stage: &Path, target: &Path) -> Result<(), MountError> {
    let mut lowers: Vec<PathBuf> = rootfs
        .lower
        .iter()
        .map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)))
        .collect();
    if !rootfs.idmap_userns.is_empty() && !lowers.is_empty() {
        lowers = idmapped(&lowers, Path::new(&rootfs.idmap_userns), stage)?;
    }
    let upper = Path::new(OsStr::from_bytes(&rootfs.upper));
    let view = upper.as_os_str().is_empty();
    if let ([only], true) = (lowers.as_slice(), view) {
        // overlayfs wants two lower layers where there is no upper.
        let mount = clone_mount(only, false)?;
        let read_only = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            propagation: libc::MS_PRIVATE,
            ..MountAttr::default()
        };
        sys::mount_setattr(mount.as_fd(), false, &read_only).map_err(at("make read-only", only))?;
        return attach(&mount, target);
    }
    while lowers.len() < if view { 2 } else { 1 } {
        let empty = stage.join(format!("empty{}", lowers.len()));
        passable_dir(&empty)?;
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755))
            .map_err(at("chmod", &empty))?;
        lowers.push(empty);
    }
    let mut held = Vec::new();
    let context =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen overlay", target))?;
    let source = fsconfig_set_string(&context, "source", "overlay");
    source.map_err(at("configure overlay", target))?;
    add_lowers(&context, &lowers, &mut held)?;
    if !view {
        let work = Path::new(OsStr::from_bytes(&rootfs.work));
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let name = short(path, &mut held)?;
            fsconfig_set_string(&context, key, name.as_path())
                .map_err(at("add upper layer", path))?;
        }
    }
    for option in &rootfs.options {
        fsconfig_set_flag(&context, option.as_str()).map_err(at("set overlay option", option))?;
    }
    fsconfig_create(&context).map_err(at("mount overlay on", target))?;
    let attributes = if view {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    };
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(at("fsmount overlay", target))?;
    attach(&mount, target)
}

/// Gives overlayfs its lower layers, top first: one by one, or on kernels
/// before 6.8, which cannot, as one string of short names.
fn add_lowers(
    context: &OwnedFd,
    lowers: &[PathBuf],
    held: &mut Vec<OwnedFd>,
) -> Result<(), MountError> {
    for (index, lower) in lowers.iter().enumerate() {
        let name = short(lower, held)?;
        match fsconfig_set_string(context, "lowerdir+", name.as_path()) {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return add_lowers_joined(context, lowers, held),
            Err(errno) => return Err(at("add lower layer", lower)(errno)),
        }
    }
    Ok(())
}

fn add_lowers_joined(
    context: &OwnedFd,
    lowers: &[PathBuf],
    held: &mut Vec<OwnedFd>,
) -> Result<(), MountError> {
    let mut names = Vec::new();
    for lower in lowers {
        let fd = open_path(lower)?;
        names.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        held.push(fd);
    }
    let joined = names.join(":");
    fsconfig_set_string(context, "lowerdir", joined.as_str()).map_err(at(
        "add lower layers",
        lowers.first().cloned().unwrap_or_default(),
    ))
}

/// `path`, or a short name for it where it is too long for fsconfig(2). The
/// name is valid as long as `held` is.
fn short(path: &Path, held: &mut Vec<OwnedFd>) -> Result<PathBuf, MountError> {
    if path.as_os_str().len() <= FSCONFIG_STRING_MAX {
        return Ok(path.to_owned());
    }
    let fd = open_path(path)?;
    let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    held.push(fd);
    Ok(name)
}

/// The layers as seen through one idmapped clone of the directory that holds
/// all of them: one clone however many layers there are.
fn idmapped(lowers: &[PathBuf], userns: &Path, stage: &Path) -> Result<Vec<PathBuf>, MountError> {
    let Some(parent) = common_parent(lowers) else {
        return Ok(lowers.to_vec());
    };
    let mount = clone_mount(&parent, false)?;
    let fd = open_userns(userns)?;
    idmap(&mount, &fd, false).map_err(at("idmap", &parent))?;
    let dir = stage.join("layers");
    passable_dir(&dir)?;
    attach(&mount, &dir)?;
    let inside = |lower: &PathBuf| lower.strip_prefix(&parent).map(|rest| dir.join(rest));
    Ok(lowers
        .iter()
        .filter_map(|lower| inside(lower).ok())
        .collect())
}

/// Opens a pinned user namespace.
///
/// # Errors
/// open(2)'s.
pub fn open_userns(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open user namespace", path))
}

/// Maps the ids of a detached mount by a user namespace.
///
/// # Errors
/// mount_setattr(2)'s.
pub fn idmap(mount: &OwnedFd, userns: &OwnedFd, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or(u64::MAX);
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP,
        userns_fd,
        ..MountAttr::default()
    };
    sys::mount_setattr(mount.as_fd(), recursive, &attr)
}

/// The deepest directory that holds every one of `paths`, and is none of them.
fn common_parent(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut common = paths.first()?.parent()?.to_owned();
    for path in paths {
        while !(path.starts_with(&common) && *path != common) {
            common = common.parent()?.to_owned();
        }
    }
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_above_all_layers() {
        for (paths, parent) in [
            (vec!["/l/a/fs", "/l/b/fs"], "/l"),
            (vec!["/l/a", "/l/b"], "/l"),
            (vec!["/l/a/fs"], "/l/a"),
            (vec!["/l/ab", "/l/a/fs"], "/l"),
            (vec!["/l/a", "/l/a/b"], "/l"),
            (vec!["/x", "/y/z"], "/"),
        ] {
            let paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
            assert_eq!(
                common_parent(&paths).as_deref(),
                Some(Path::new(parent)),
                "{paths:?}"
            );
        }
        assert_eq!(common_parent(&[]), None);
    }
}
