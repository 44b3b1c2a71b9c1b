//! Mode, owner, times and attributes of what is made.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{Refusal, UnpackError};

/// Names and values of extended attributes.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is set on an object beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time: seconds since the epoch, nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Xattrs,
}

/// Whether only overlayfs itself may set the attribute.
pub(crate) fn is_overlay_attribute(name: &[u8]) -> bool {
    [b"trusted.overlay.".as_slice(), b"user.overlay."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

impl Meta {
    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (
            Some(Uid::from_raw_unchecked(self.uid)),
            Some(Gid::from_raw_unchecked(self.gid)),
        )
    }

    fn times(&self) -> Timestamps {
        let (tv_sec, nsec) = self.mtime;
        let time = Timespec {
            tv_sec,
            tv_nsec: nsec.into(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    /// Refuses attributes that would change what overlayfs shows.
    pub(crate) fn check(&self, name: &[u8]) -> Result<(), UnpackError> {
        match self
            .xattrs
            .iter()
            .find(|(attribute, _)| is_overlay_attribute(attribute))
        {
            Some((attribute, _)) => {
                let attribute = String::from_utf8_lossy(attribute).into_owned();
                Err(UnpackError::refused(
                    name,
                    Refusal::OverlayAttribute(attribute),
                ))
            }
            None => Ok(()),
        }
    }

    /// Sets everything on an open file or directory.
    pub(crate) fn set(&self, fd: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        self.set_raw(fd, None)
            .map_err(|(op, errno)| UnpackError::io(op, name)(errno))
    }

    /// As [`set`](Self::set), for a file that was just made by `creator` (user and group).
    pub(crate) fn set_fresh(
        &self,
        fd: &OwnedFd,
        creator: (u32, u32),
        name: &[u8],
    ) -> Result<(), UnpackError> {
        self.set_raw(fd, Some(creator))
            .map_err(|(op, errno)| UnpackError::io(op, name)(errno))
    }

    /// Sets everything; the error tells at which step. The owner comes first, for changing it
    /// clears setuid bits and capabilities; times come last.
    pub(crate) fn set_raw(
        &self,
        fd: &OwnedFd,
        creator: Option<(u32, u32)>,
    ) -> Result<(), (&'static str, Errno)> {
        if creator != Some((self.uid, self.gid)) {
            let (user, group) = self.owner();
            rustix::fs::fchown(fd, user, group).map_err(|errno| ("chown", errno))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
            .map_err(|errno| ("set the mode of", errno))?;
        for (attribute, value) in &self.xattrs {
            rustix::fs::fsetxattr(fd, attribute.as_slice(), value, XattrFlags::empty())
                .map_err(|errno| ("set an attribute of", errno))?;
        }
        rustix::fs::futimens(fd, &self.times()).map_err(|errno| ("set the time of", errno))
    }

    /// As [`set`](Self::set), for what cannot be opened: links, devices, fifos.
    pub(crate) fn set_at(
        &self,
        dir: &OwnedFd,
        entry: &[u8],
        link: bool,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let (user, group) = self.owner();
        let here = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(dir, entry, user, group, here)
            .map_err(UnpackError::io("chown", name))?;
        if !link {
            // Just made by us in a directory that is ours alone, so it is no link.
            rustix::fs::chmodat(dir, entry, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(UnpackError::io("set the mode of", name))?;
        }
        let through: PathBuf = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
            .join(super::error::path(entry));
        for (attribute, value) in &self.xattrs {
            rustix::fs::lsetxattr(&through, attribute.as_slice(), value, XattrFlags::empty())
                .map_err(UnpackError::io("set an attribute of", name))?;
        }
        rustix::fs::utimensat(dir, entry, &self.times(), here)
            .map_err(UnpackError::io("set the time of", name))
    }

    /// Everything of an open file or directory but what overlayfs put there.
    pub(crate) fn read(fd: &OwnedFd) -> Result<Self, Errno> {
        let mut xattrs = read_xattrs(fd)?;
        xattrs.retain(|(name, _)| !is_overlay_attribute(name));
        Ok(Self {
            xattrs,
            ..Self::of(&rustix::fs::fstat(fd)?)
        })
    }

    /// What `stat` tells.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            xattrs: Vec::new(),
        }
    }

    /// Whether this is what a directory gets that a tar only implies; times do not count.
    pub(crate) fn is_implied_default(&self) -> bool {
        (self.mode, self.uid, self.gid) == (0o755, 0, 0) && self.xattrs.is_empty()
    }
}

/// All attributes of an open file or directory.
pub(crate) fn read_xattrs(fd: &OwnedFd) -> Result<Xattrs, Errno> {
    // The kernel's limits for a list and for one value (xattr(7)).
    let mut list = vec![0_u8; 64 << 10];
    let len = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    list.truncate(len);
    let mut xattrs = Vec::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 64 << 10];
        let len = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())?;
        value.truncate(len);
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}
