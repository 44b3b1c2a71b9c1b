//! Names of a tar to directories of the layer.
//!
//! A name's directory part may go through links that the same layer made; they are followed with
//! the layer as the root, as other runtimes do, and directories that are missing are made. Every
//! open is relative to a descriptor, beneath it, and follows no link (`openat2(2)`), so the only
//! way to resolve a link is the walk here, which knows no other root.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{Refusal, UnpackError};
use crate::merged::{is_whiteout, join};

/// The kernel's PATH_MAX without the final NUL, and NAME_MAX.
pub(super) const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;
/// As path_resolution(7).
const MAX_LINKS: usize = 40;
/// Directories kept open. An archive goes through them one after the other.
const OPEN_DIRS: usize = 32;
/// Components of link targets that a layer may walk: some at once, some more with each entry. A
/// short entry could otherwise cost tens of thousands of steps, through long chains of links.
const STEPS: usize = 1 << 16;
const STEPS_PER_ENTRY: usize = 64;

/// The components of a name, without a leading slash, empty ones and `.`.
pub(super) fn components(name: &[u8]) -> Result<Vec<&[u8]>, Refusal> {
    if name.len() > MAX_PATH {
        return Err(Refusal::TooLong);
    }
    if name.contains(&0) {
        return Err(Refusal::Nul);
    }
    let parts: Vec<_> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(Refusal::DotDot);
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(Refusal::TooLong);
    }
    Ok(parts)
}

/// Opens `path`, which goes through no link, below `root`.
pub(crate) fn path_of(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)
}

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An open directory of the layer.
#[derive(Debug)]
pub(super) struct LayerDir {
    pub(super) fd: OwnedFd,
    /// Its path in the layer, through no link.
    pub(super) path: Vec<u8>,
}

/// What a walk had to make.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Implied {
    pub(super) path: Vec<u8>,
    /// It stands in the place of a whiteout: what is below must not show through.
    pub(super) replaces_whiteout: bool,
}

/// The directories of a layer that is being made.
#[derive(Debug)]
pub(super) struct Dirs {
    root: OwnedFd,
    open: HashMap<Vec<u8>, Rc<LayerDir>>,
    steps: usize,
}

struct Walk {
    at: LayerDir,
    /// Components to go, the next one last.
    left: Vec<Vec<u8>>,
    links: usize,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            open: HashMap::new(),
            steps: STEPS,
        }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// To be called for each entry.
    pub(super) fn entry(&mut self) {
        self.steps = self.steps.saturating_add(STEPS_PER_ENTRY);
    }

    /// To be called when something is removed or replaced: an open directory could be meant.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// The directory with these components. What is missing is made and added to `implied`;
    /// without `implied` a missing directory is `None`.
    pub(super) fn get(
        &mut self,
        parts: &[&[u8]],
        name: &[u8],
        implied: Option<&mut Vec<Implied>>,
    ) -> Result<Option<Rc<LayerDir>>, UnpackError> {
        let key = parts.join(&b'/');
        if let Some(dir) = self.open.get(&key) {
            return Ok(Some(dir.clone()));
        }
        let dir = match path_of(&self.root, &key, DIR) {
            Ok(fd) => LayerDir {
                fd,
                path: key.clone(),
            },
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                match self.walk(parts, name, implied)? {
                    Some(dir) => dir,
                    None => return Ok(None),
                }
            }
            Err(errno) => return Err(UnpackError::io("open the directory of", name)(errno)),
        };
        if self.open.len() >= OPEN_DIRS {
            self.open.clear();
        }
        let dir = Rc::new(dir);
        self.open.insert(key, dir.clone());
        Ok(Some(dir))
    }

    fn reopen(&self, path: &[u8], name: &[u8]) -> Result<LayerDir, UnpackError> {
        let fd = path_of(&self.root, path, DIR)
            .map_err(UnpackError::io("open the directory of", name))?;
        Ok(LayerDir {
            fd,
            path: path.to_vec(),
        })
    }

    /// One component after the other, through links.
    fn walk(
        &mut self,
        parts: &[&[u8]],
        name: &[u8],
        mut implied: Option<&mut Vec<Implied>>,
    ) -> Result<Option<LayerDir>, UnpackError> {
        let mut walk = Walk {
            at: self.reopen(b"", name)?,
            left: parts.iter().rev().map(|part| part.to_vec()).collect(),
            links: 0,
        };
        while let Some(part) = walk.left.pop() {
            if part == b".." {
                let end = walk
                    .at
                    .path
                    .iter()
                    .rposition(|byte| *byte == b'/')
                    .unwrap_or(0);
                let up = walk.at.path.get(..end).unwrap_or_default().to_vec();
                walk.at = self.reopen(&up, name)?;
                continue;
            }
            let failed = || UnpackError::io("open the directory of", name);
            let (fd, stat) = match path_of(&walk.at.fd, &part, OFlags::PATH) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(failed())?;
                    (Some(fd), Some(stat))
                }
                Err(Errno::NOENT) => (None, None),
                Err(errno) => return Err(failed()(errno)),
            };
            let kind = stat
                .as_ref()
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            match (fd, kind) {
                (Some(fd), Some(FileType::Directory)) => {
                    let path = join(&walk.at.path, &part);
                    walk.at = LayerDir { fd, path };
                }
                (Some(fd), Some(FileType::Symlink)) => self.follow(&mut walk, &fd, name)?,
                (_, _) => {
                    let whiteout = stat.as_ref().is_some_and(is_whiteout);
                    if stat.is_some() && !whiteout {
                        return Err(UnpackError::refused(name, Refusal::NotADirectory));
                    }
                    let Some(implied) = implied.as_deref_mut() else {
                        return Ok(None);
                    };
                    walk.at = make(&walk.at, &part, whiteout).map_err(failed())?;
                    let path = walk.at.path.clone();
                    implied.push(Implied {
                        path,
                        replaces_whiteout: whiteout,
                    });
                }
            }
        }
        Ok(Some(walk.at))
    }

    /// Puts a link's target in front of what is left to walk.
    fn follow(&mut self, walk: &mut Walk, link: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        let target = rustix::fs::readlinkat(link, c"", Vec::new())
            .map_err(UnpackError::io("read a link on the way to", name))?
            .into_bytes();
        if target.starts_with(b"/") {
            walk.at = self.reopen(b"", name)?;
        }
        let before = walk.left.len();
        walk.left.extend(
            target
                .split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .map(<[u8]>::to_vec)
                .rev(),
        );
        walk.links += 1;
        let steps = walk.left.len() - before + 1;
        let left = self
            .steps
            .checked_sub(steps)
            .filter(|_| walk.links <= MAX_LINKS);
        self.steps = left.ok_or_else(|| UnpackError::refused(name, Refusal::Links))?;
        Ok(())
    }
}

/// Makes a directory; its final mode is set with those of all others, at the end.
fn make(at: &LayerDir, part: &[u8], whiteout: bool) -> Result<LayerDir, Errno> {
    if whiteout {
        rustix::fs::unlinkat(&at.fd, part, rustix::fs::AtFlags::empty())?;
    }
    let path = join(&at.path, part);
    if path.len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    rustix::fs::mkdirat(&at.fd, part, Mode::RWXU)?;
    let fd = path_of(&at.fd, part, DIR)?;
    Ok(LayerDir { fd, path })
}
