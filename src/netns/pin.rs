//! Bind mounts that keep namespaces alive.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use super::NetnsError;

/// What a namespace is: device and inode of its nsfs file. Unique while the
/// namespace lives, within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode of the namespace.
    pub ino: u64,
}

/// A pinned namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    fd: OwnedFd,
    identity: Identity,
}

impl Namespace {
    /// Opens the namespace that is pinned at `path`.
    ///
    /// # Errors
    /// [`NetnsError::NotPinned`] when there is nothing or something else.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let not_pinned = || NetnsError::NotPinned {
            path: path.to_owned(),
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(not_pinned()),
            other => other.map_err(NetnsError::path("open namespace", path))?,
        };
        let fs = fstatfs(&file).map_err(NetnsError::path("statfs", path))?;
        if fs.filesystem_type() != NSFS_MAGIC {
            return Err(not_pinned());
        }
        let meta = file.metadata().map_err(NetnsError::path("stat", path))?;
        Ok(Self {
            path: path.to_owned(),
            fd: file.into(),
            identity: Identity {
                dev: meta.dev(),
                ino: meta.ino(),
            },
        })
    }

    /// Where it is pinned.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes `dir` a shared mount point, so that pins made in it are seen in every
/// mount namespace that has it. The way and the lock are those of ip-netns(8),
/// so that it and other daemons may do the same at the same time.
///
/// # Errors
/// [`NetnsError::Path`].
pub fn prepare_dir(dir: &Path) -> Result<(), NetnsError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(NetnsError::path("make directory", dir))?;
    let handle = File::open(dir).map_err(NetnsError::path("open directory", dir))?;
    let lock = Flock::lock(handle, FlockArg::LockExclusive)
        .map_err(|(_, errno)| NetnsError::path("lock", dir)(errno))?;
    match share(dir) {
        Err(Errno::EINVAL) => {
            mount(
                Some(dir),
                dir,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )
            .map_err(NetnsError::path("bind mount on itself", dir))?;
            share(dir).map_err(NetnsError::path("make shared", dir))?;
        }
        other => other.map_err(NetnsError::path("make shared", dir))?,
    }
    drop(lock);
    Ok(())
}

fn share(dir: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, dir, None::<&str>, flags, None::<&str>)
}

/// Binds the nsfs file `source` onto `target`, which is made.
///
/// # Errors
/// [`NetnsError::Path`]. What was made then stays for [`unpin`].
pub fn pin(source: &Path, target: &Path) -> Result<(), NetnsError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(target)
        .map_err(NetnsError::path("make pin", target))?;
    let bind = MsFlags::MS_BIND;
    mount(Some(source), target, None::<&str>, bind, None::<&str>)
        .map_err(NetnsError::path("pin namespace at", target))
}

/// Pins namespace `name` ("pid", "user", ...) of a process at `target`. `pidfd`
/// proves that the process has not ended, and that its id was its own, until
/// the pin was made.
///
/// # Errors
/// [`NetnsError::ProcessEnded`] besides the failing step. What was made then
/// stays for [`unpin`].
pub fn pin_process(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    name: &str,
    target: &Path,
) -> Result<(), NetnsError> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    pin(Path::new(&format!("/proc/{pid}/ns/{name}")), target)?;
    let mut ended = [PollFd::new(pidfd, PollFlags::POLLIN)];
    let count = poll(&mut ended, PollTimeout::ZERO).map_err(NetnsError::call("poll the pidfd"))?;
    if count > 0 {
        return Err(NetnsError::ProcessEnded { pid });
    }
    Ok(())
}

/// Removes the pin at `path`; the namespace ends with its last process. Not
/// there is fine.
///
/// # Errors
/// [`NetnsError::Path`].
pub fn unpin(path: &Path) -> Result<(), NetnsError> {
    // A pin that an interrupted create mounted twice has two layers.
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(NetnsError::path("unmount pin", path)(errno)),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(NetnsError::path("remove pin", path)(error))
        }
        _ => Ok(()),
    }
}

/// The file names in `dir` that begin with `prefix`, without it. No such
/// directory: none.
///
/// # Errors
/// [`NetnsError::Path`].
pub fn pins(dir: &Path, prefix: &str) -> Result<Vec<String>, NetnsError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(NetnsError::path("list", dir))?,
    };
    let names: io::Result<Vec<_>> = entries.map(|e| e.map(|e| e.file_name())).collect();
    Ok(names
        .map_err(NetnsError::path("list", dir))?
        .iter()
        .filter_map(|name| name.to_str()?.strip_prefix(prefix).map(str::to_owned))
        .collect())
}
