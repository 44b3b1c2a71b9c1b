//! What overlayfs would show for a stack of layers, read without a mount.
//!
//! A path is walked one component at a time. At each step the position is a *merged directory*:
//! the layers that have it, topmost first, cut off below an opaque one. Every open starts at a
//! layer's descriptor, follows no link and stays beneath it (`openat2(2)`); links are followed
//! here, with the image's root as the root. So nothing outside of the layers can be named.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// As path_resolution(7).
const MAX_LINKS: usize = 40;
/// As the kernel's PATH_MAX, for the path that is left to walk.
const MAX_PATH: usize = 4096;

/// Why a path could not be walked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("more than {MAX_LINKS} symbolic links, or a path longer than {MAX_PATH} bytes")]
    TooManyLinks,
    #[error("read a layer")]
    Io(#[from] Errno),
}

/// The name of the attribute that makes a directory opaque.
pub(crate) fn opaque_name(userxattr: bool) -> &'static str {
    if userxattr {
        "user.overlay.opaque"
    } else {
        "trusted.overlay.opaque"
    }
}

/// Whether `stat` is how overlayfs stores a removal.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A stack of layers.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Bottom to top.
    layers: Vec<OwnedFd>,
    opaque: &'static str,
}

/// One directory of the merged tree.
#[derive(Debug, Clone)]
pub(crate) struct MergedDir {
    /// Those layers that show something of it, topmost first.
    parts: Vec<usize>,
    /// Its path in each of them, empty for the root.
    path: Vec<u8>,
}

/// Something that is no directory, or the topmost part of one.
#[derive(Debug)]
pub(crate) struct Object {
    /// Index of the layer, 0 the lowest.
    pub(crate) layer: usize,
    pub(crate) path: Vec<u8>,
    pub(crate) stat: Stat,
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Found {
    Dir(MergedDir),
    Other(Box<Object>),
}

impl Object {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// `path` without empty and `.` components, the next one last.
fn stacked(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

/// `name` below `dir`, relative to a layer.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

impl Merged {
    /// Opens the `fs` directories of the layers, bottom to top.
    pub(crate) fn open(layers: &[PathBuf], userxattr: bool) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty());
        let layers = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            layers,
            opaque: opaque_name(userxattr),
        })
    }

    pub(crate) fn root(&self) -> MergedDir {
        MergedDir {
            parts: (0..self.layers.len()).rev().collect(),
            path: Vec::new(),
        }
    }

    /// Whether there is no layer at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Opens `path` of one layer without following any link.
    pub(crate) fn open_at(
        &self,
        layer: usize,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let root = self.layers.get(layer).ok_or(Errno::NOENT)?;
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)
    }

    /// The part of `dir` that gives it its mode, owner and attributes, open for reading.
    pub(crate) fn open_dir(&self, dir: &MergedDir) -> Result<OwnedFd, Errno> {
        let top = dir.parts.first().copied().ok_or(Errno::NOENT)?;
        self.open_at(top, &dir.path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn stat(&self, layer: usize, path: &[u8]) -> Result<Option<Stat>, Errno> {
        match self.open_at(layer, path, OFlags::PATH) {
            Ok(fd) => rustix::fs::fstat(fd).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn is_opaque(&self, layer: usize, path: &[u8]) -> Result<bool, Errno> {
        let dir = self.open_at(layer, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        is_opaque(&dir, self.opaque)
    }

    /// What `name`, one component, is in `dir`. No link is followed.
    pub(crate) fn lookup(&self, dir: &MergedDir, name: &[u8]) -> Result<Option<Found>, Errno> {
        let path = join(&dir.path, name);
        let mut parts = Vec::new();
        for &layer in &dir.parts {
            let Some(stat) = self.stat(layer, &path)? else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if parts.is_empty() && !is_whiteout(&stat) {
                    return Ok(Some(Found::Other(Box::new(Object { layer, path, stat }))));
                }
                break;
            }
            parts.push(layer);
            if self.is_opaque(layer, &path)? {
                break;
            }
        }
        Ok((!parts.is_empty()).then_some(Found::Dir(MergedDir { parts, path })))
    }

    /// Walks `path` from the image's root and follows every link, the last component's too where
    /// `follow_last` says so.
    pub(crate) fn resolve(
        &self,
        path: &[u8],
        follow_last: bool,
    ) -> Result<Option<Found>, WalkError> {
        let mut at = vec![self.root()];
        let mut left = stacked(path);
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == b".." {
                at.truncate(at.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(dir) = at.last() else {
                return Ok(None);
            };
            let object = match self.lookup(dir, &part)? {
                None => return Ok(None),
                Some(Found::Dir(dir)) => {
                    at.push(dir);
                    continue;
                }
                Some(Found::Other(object)) => object,
            };
            let last = left.is_empty();
            if object.kind() != FileType::Symlink || (last && !follow_last) {
                // A file as a directory part names nothing.
                return Ok(last.then_some(Found::Other(object)));
            }
            let target = self.target(&object)?;
            links += 1;
            let rest: usize = left.iter().map(|part| part.len() + 1).sum();
            if links > MAX_LINKS || rest + target.len() > MAX_PATH {
                return Err(WalkError::TooManyLinks);
            }
            if target.starts_with(b"/") {
                at.truncate(1);
            }
            left.extend(stacked(&target));
        }
        Ok(at.pop().map(Found::Dir))
    }

    /// Where a symbolic link points.
    pub(crate) fn target(&self, link: &Object) -> Result<Vec<u8>, Errno> {
        let fd = self.open_at(link.layer, &link.path, OFlags::PATH)?;
        Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
    }

    /// The visible names of `dir`.
    pub(crate) fn list(&self, dir: &MergedDir) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for &layer in &dir.parts {
            let part = self.open_at(layer, &dir.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in Dir::read_from(&part)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." || names.contains_key(name.to_bytes()) {
                    continue;
                }
                let stat = rustix::fs::statat(&part, name, AtFlags::SYMLINK_NOFOLLOW)?;
                names.insert(name.to_bytes().to_vec(), !is_whiteout(&stat));
            }
        }
        Ok(names
            .into_iter()
            .filter_map(|(name, visible)| visible.then_some(name))
            .collect())
    }
}

/// Whether the open directory `dir` hides what layers below have of it.
fn is_opaque(dir: &OwnedFd, attribute: &str) -> Result<bool, Errno> {
    let mut value = [0_u8; 2];
    match rustix::fs::fgetxattr(dir, attribute, &mut value[..]) {
        Ok(len) => Ok(len == 1 && value.first() == Some(&b'y')),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}
