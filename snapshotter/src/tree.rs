//! Walking trees of any depth with two descriptors.
//!
//! A container can nest directories deeper than any path, descriptor table or thread stack is
//! long. So neither recursion nor a descriptor per level: going up is `..`, checked to be the
//! directory it was on the way down, for the container may move directories meanwhile.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{SnapshotError, Usage};

const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// One directory of a walk that is above the current one.
struct Level {
    /// Subdirectories that have not been visited.
    left: Vec<CString>,
    identity: (u64, u64),
    /// The name by which the level below was entered.
    entered: Option<CString>,
}

/// What a walk does where.
pub(crate) trait Visitor {
    /// Every entry that is no directory, and every directory before it is entered.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, kind: FileType) -> Result<(), Errno>;
    /// Before a directory's entries are read.
    fn open(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(parent, name, OPEN_DIR, Mode::empty())
    }
    /// After everything in it was visited.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno>;
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn level(dir: &OwnedFd, visitor: &mut dyn Visitor) -> Result<Level, Errno> {
    let identity = identity(&rustix::fs::fstat(dir)?);
    let mut left = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if name.as_bytes() == b"." || name.as_bytes() == b".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        visitor.entry(dir.as_fd(), &name, kind)?;
        if kind == FileType::Directory {
            left.push(name);
        }
    }
    Ok(Level {
        left,
        identity,
        entered: None,
    })
}

/// Visits everything below `root`, which itself is not visited.
pub(crate) fn walk(root: OwnedFd, visitor: &mut dyn Visitor) -> Result<(), Errno> {
    let mut current = root;
    let mut levels = vec![level(&current, visitor)?];
    while let Some(top) = levels.last_mut() {
        if let Some(name) = top.left.pop() {
            let child = match visitor.open(current.as_fd(), &name) {
                // Gone or replaced since it was read: whoever did that also answers for it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other?,
            };
            top.entered = Some(name);
            levels.push(level(&child, visitor)?);
            current = child;
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last_mut() {
            let parent = rustix::fs::openat(&current, c"..", OPEN_DIR, Mode::empty())?;
            if identity(&rustix::fs::fstat(&parent)?) != above.identity {
                // The directory was moved away under the walk: what is left cannot be reached.
                return Err(Errno::STALE);
            }
            current = parent;
            if let Some(name) = above.entered.take() {
                visitor.leave(current.as_fd(), &name)?;
            }
        }
    }
    Ok(())
}

/// Runs `call`; where immutable or append-only flags forbid it, clears those of `dir` and of the
/// entry and tries again. A privileged container can set them.
fn despite_flags(
    dir: BorrowedFd<'_>,
    name: &CString,
    call: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    match call() {
        Err(Errno::PERM | Errno::ACCESS) => {}
        other => return other,
    }
    clear_flags(dir)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let kind = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    // Only these two can carry the flags, and opening a device or a fifo could have effects.
    if matches!(
        FileType::from_raw_mode(kind),
        FileType::RegularFile | FileType::Directory
    ) {
        clear_flags(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd())?;
    }
    call()
}

fn clear_flags(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) if flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) => {
            rustix::fs::ioctl_setflags(fd, flags - (IFlags::IMMUTABLE | IFlags::APPEND))
        }
        // A file system without such flags has not refused anything because of them.
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

struct Remove;

impl Visitor for Remove {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, kind: FileType) -> Result<(), Errno> {
        if kind == FileType::Directory {
            return Ok(());
        }
        unlink(dir, name, AtFlags::empty())
    }

    fn open(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
        match rustix::fs::openat(parent, name, OPEN_DIR, Mode::empty()) {
            // The kernel's work/work has mode 0; without CAP_DAC_OVERRIDE that counts.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                rustix::fs::openat(parent, name, OPEN_DIR, Mode::empty())
            }
            other => other,
        }
    }

    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
        unlink(parent, name, AtFlags::REMOVEDIR)
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &CString, flags: AtFlags) -> Result<(), Errno> {
    let gone = |result| match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    };
    despite_flags(dir, name, || gone(rustix::fs::unlinkat(dir, name, flags)))
}

/// Removes `name` in `dir` with everything in it, whatever it is. Nothing there is success.
pub(crate) fn remove_at(dir: impl AsFd, name: &CString) -> Result<(), Errno> {
    let dir = dir.as_fd();
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return unlink(dir, name, AtFlags::empty());
    }
    walk(Remove.open(dir, name)?, &mut Remove)?;
    unlink(dir, name, AtFlags::REMOVEDIR)
}

/// Removes `path` with everything in it. Nothing there is success.
pub(crate) fn remove(path: &Path) -> Result<(), SnapshotError> {
    let failed = |errno: Errno| SnapshotError::io("remove", path)(errno);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(Errno::INVAL));
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let dir = match rustix::fs::open(parent, OPEN_DIR, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(failed)?,
    };
    remove_at(&dir, &name).map_err(failed)
}

struct Measure {
    usage: Usage,
    /// Files with several names that have been counted.
    linked: HashSet<(u64, u64)>,
}

impl Visitor for Measure {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, _: FileType) -> Result<(), Errno> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if directory || stat.st_nlink < 2 || self.linked.insert(identity(&stat)) {
            self.usage = add(self.usage, &stat);
        }
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CString) -> Result<(), Errno> {
        Ok(())
    }
}

fn add(usage: Usage, stat: &Stat) -> Usage {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    Usage {
        bytes: usage.bytes + blocks * 512,
        inodes: usage.inodes + 1,
    }
}

/// What the tree at `root` takes on disk, `root` included. `None` if there is none.
///
/// A tree that is moved about meanwhile is measured again, three times at most.
pub(crate) fn usage(root: &Path) -> Result<Option<Usage>, SnapshotError> {
    let failed = |errno: Errno| SnapshotError::io("measure", root)(errno);
    let mut last = Errno::STALE;
    for _ in 0..3 {
        let dir = match rustix::fs::open(root, OPEN_DIR, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&dir).map_err(failed)?;
        let mut measure = Measure {
            usage: add(Usage::default(), &stat),
            linked: HashSet::new(),
        };
        match walk(dir, &mut measure) {
            Ok(()) => return Ok(Some(measure.usage)),
            Err(Errno::STALE) => last = Errno::STALE,
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(failed(last))
}

#[derive(Default)]
struct Count {
    names: u64,
    inodes: HashSet<(u64, u64)>,
}

impl Visitor for Count {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, _: FileType) -> Result<(), Errno> {
        self.names += 1;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.inodes.insert(identity(&stat));
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CString) -> Result<(), Errno> {
        Ok(())
    }
}

/// The number of names in all directories below `root`, and of inodes they are for.
pub(crate) fn count(root: OwnedFd) -> Result<(u64, u64), Errno> {
    let mut count = Count::default();
    walk(root, &mut count)?;
    Ok((count.names, count.inodes.len() as u64))
}
