//! Removals: from the names of a tar to what overlayfs knows.
//!
//! A layer says `.wh.name` for "name is gone below" and `.wh..wh..opq` for "nothing below is left
//! in this directory" (OCI image-spec, layer.md, "Whiteouts"); neither concerns the layer's own
//! entries, whether they come before or after. overlayfs has a character device 0:0 for the first
//! and an attribute of the directory for the second.
//!
//! A whiteout and a directory of the same name in one layer mean a new directory: it is opaque.
//! Names below a `.wh.` directory are refused. `.wh..wh.` names other than the opaque marker are
//! the bookkeeping of AUFS; they are left out, as other runtimes do.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::error::Refusal;
use crate::merged::opaque_name;

const PREFIX: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the name of an entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A thing of that name.
    Entry,
    /// The removal of this name.
    Whiteout(&'a [u8]),
    /// Nothing below is left in the directory.
    Opaque,
    /// Nothing that belongs to a file system.
    Ignore,
}

/// Reads the components of a name.
pub(super) fn meaning<'a>(parts: &[&'a [u8]]) -> Result<Meaning<'a>, Refusal> {
    let Some((last, dirs)) = parts.split_last() else {
        return Ok(Meaning::Entry);
    };
    if let Some(dir) = dirs.iter().find(|dir| dir.starts_with(PREFIX)) {
        let aufs = dir.starts_with(AUFS);
        return if aufs {
            Ok(Meaning::Ignore)
        } else {
            Err(Refusal::Whiteout)
        };
    }
    if *last == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if last.starts_with(AUFS) {
        return Ok(Meaning::Ignore);
    }
    match last.strip_prefix(PREFIX) {
        None => Ok(Meaning::Entry),
        Some(b"" | b"." | b"..") => Err(Refusal::Whiteout),
        Some(name) => Ok(Meaning::Whiteout(name)),
    }
}

/// Makes the directory hide whatever it has below.
pub(crate) fn make_opaque(dir: &OwnedFd, userxattr: bool) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    rustix::fs::fsetxattr(&dir, opaque_name(userxattr), b"y", XattrFlags::empty())
}

/// What [`hide`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// Nothing, and made a whiteout.
    Made,
    /// A directory, which is opaque now.
    Opaque,
    /// Something else, which hides what is below anyway.
    Already,
}

/// Hides what `name` in `dir` is below, without touching what this layer has there.
pub(crate) fn hide(dir: &OwnedFd, name: &[u8], userxattr: bool) -> Result<Hidden, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {
            rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?;
            Ok(Hidden::Made)
        }
        Err(errno) => Err(errno),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            make_opaque(&child, userxattr)?;
            Ok(Hidden::Opaque)
        }
        Ok(_) => Ok(Hidden::Already),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let read = |name: &str| {
            let parts: Vec<_> = name.split('/').map(str::as_bytes).collect();
            meaning(&parts).map(|meaning| format!("{meaning:?}"))
        };
        let ok = |meaning: &Meaning<'_>| Ok(format!("{meaning:?}"));
        assert_eq!(read("a/b"), ok(&Meaning::Entry));
        assert_eq!(read("a/.wh.b"), ok(&Meaning::Whiteout(b"b")));
        assert_eq!(read(".wh.b"), ok(&Meaning::Whiteout(b"b")));
        assert_eq!(read("a/.wh..wh..opq"), ok(&Meaning::Opaque));
        assert_eq!(read(".wh..wh.plnk/1.2"), ok(&Meaning::Ignore));
        assert_eq!(read(".wh..wh.aufs"), ok(&Meaning::Ignore));
        assert_eq!(read(".wh..hidden"), ok(&Meaning::Whiteout(b".hidden")));
        assert_eq!(read("a.wh.b"), ok(&Meaning::Entry));
        for bad in [".wh.", ".wh..", ".wh...", ".wh.a/b", "a/.wh.b/c"] {
            assert_eq!(read(bad), Err(Refusal::Whiteout), "{bad}");
        }
    }
}
