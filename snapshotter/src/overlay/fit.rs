//! Fitting a layer to the layers below it.
//!
//! The shared layer is left as it is. The fitted one is a copy of its directories with hard links
//! to its files, so it takes little and needs no download.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::copy::copy;
use super::layout::{DIR, Layout, Staged, open_dir};
use crate::merged::{Found, Merged, MergedDir, Object, WalkError};
use crate::record::{Head, LayerRecord, RecordError, TarPath};
use crate::tree::{self, Visitor};
use crate::unpack::whiteout::{self, Hidden};
use crate::unpack::{Meta, PendingLink, Refusal, UnpackError, display, path_of, read_xattrs};
use crate::{LayerId, SnapshotError};

/// A layer as it is before it is fitted.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) fs: PathBuf,
    pub(super) head: Head,
    /// `None` for a stored layer: its record is read when it is needed.
    pub(super) record: Option<&'a LayerRecord>,
    pub(super) links: &'a [PendingLink],
}

/// The merged directory below each path, walked in the order of the paths so that what they have
/// in common is looked up once. No link is followed: a directory hides a link below it.
struct Below<'a> {
    parents: &'a Merged,
    at: Vec<(Vec<u8>, Option<MergedDir>)>,
}

impl Below<'_> {
    fn dir(&mut self, path: &[u8]) -> Result<Option<MergedDir>, Errno> {
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .collect();
        let same = self
            .at
            .iter()
            .zip(&parts)
            .take_while(|((name, _), part)| name == *part)
            .count();
        self.at.truncate(same);
        let mut dir = match self.at.last() {
            Some((_, dir)) => dir.clone(),
            None => Some(self.parents.root()),
        };
        for part in parts.iter().skip(same) {
            dir = match dir {
                Some(dir) => match self.parents.lookup(&dir, part)? {
                    Some(Found::Dir(dir)) => Some(dir),
                    Some(Found::Other(_)) | None => None,
                },
                None => None,
            };
            self.at.push((part.to_vec(), dir.clone()));
        }
        Ok(dir)
    }
}

/// The implied directories that are different below, with what they are there.
fn inherited(head: &Head, parents: &Merged) -> Result<Vec<(Vec<u8>, Meta)>, UnpackError> {
    let mut below = Below {
        parents,
        at: Vec::new(),
    };
    let mut found = Vec::new();
    if parents.is_empty() {
        return Ok(found);
    }
    for TarPath(path) in &head.implied {
        let failed = || UnpackError::io("look below at", path);
        let Some(dir) = below.dir(path).map_err(failed())? else {
            continue;
        };
        let fd = parents.open_dir(&dir).map_err(failed())?;
        let meta = Meta::read(&fd).map_err(failed())?;
        if !meta.is_implied_default() {
            found.push((path.clone(), meta));
        }
    }
    Ok(found)
}

impl Source<'_> {
    /// Whether the layer means something else on these parents than on none.
    pub(super) fn leans(&self, parents: &Merged) -> Result<bool, UnpackError> {
        if !self.links.is_empty() {
            return Ok(true);
        }
        if parents.is_empty() {
            return Ok(false);
        }
        Ok(self.head.root_opaque || !inherited(&self.head, parents)?.is_empty())
    }

    fn record(&self, layout: &Layout) -> Result<LayerRecord, SnapshotError> {
        if let Some(record) = self.record {
            return Ok(record.clone());
        }
        let layer = LayerId::shared(&self.head.diff_id);
        let failed = |source| SnapshotError::Record { layer, source };
        let json = std::fs::read(layout.layer(&layer).join("layer.json"))
            .map_err(|error| failed(RecordError::Read(error)))?;
        LayerRecord::parse(&json).map_err(failed)
    }
}

/// Makes the fitted layer in staging. `parents` are the `fs` directories below, bottom to top.
pub(super) fn fit(
    layout: &Layout,
    source: &Source<'_>,
    parents: &[PathBuf],
) -> Result<(Staged, LayerRecord), SnapshotError> {
    let userxattr = layout.config().userxattr;
    let diff_id = source.head.diff_id;
    let open = |paths: &[PathBuf]| {
        Merged::open(paths, userxattr)
            .map_err(SnapshotError::io("open layers in", &layout.config().layers))
    };
    let staged = layout.stage()?;
    clone_tree(&source.fs, &staged.fs())?;
    let mut record = source.record(layout)?;
    let below = open(parents)?;
    let whole = open(&[parents, &[staged.fs()]].concat())?;
    let mut fitting = Fitting {
        own: open_dir(&staged.fs())?,
        index: parents.len(),
        userxattr,
        record: &mut record,
    };
    fitting
        .inherit(&below)
        .and_then(|()| fitting.hide_root(&below))
        .and_then(|()| fitting.link(&whole, source.links))
        .map_err(|source| SnapshotError::Resolve { diff_id, source })?;
    record.head.chained = true;
    record.head.implied = Vec::new();
    record.head.root_opaque = false;
    Ok((staged, record))
}

struct Fitting<'a> {
    /// The root of the fitted layer.
    own: OwnedFd,
    /// Its index in a stack of the parents and itself.
    index: usize,
    userxattr: bool,
    record: &'a mut LayerRecord,
}

impl Fitting<'_> {
    /// Gives implied directories what they have below.
    fn inherit(&mut self, below: &Merged) -> Result<(), UnpackError> {
        for (path, meta) in inherited(&self.record.head, below)? {
            let dir = path_of(&self.own, &path, DIR)
                .map_err(UnpackError::io("open an implied directory", &path))?;
            meta.set(&dir, &path)?;
        }
        Ok(())
    }

    /// Hides everything that the parents have in the root, where the root is opaque.
    fn hide_root(&mut self, below: &Merged) -> Result<(), UnpackError> {
        if !self.record.head.root_opaque {
            return Ok(());
        }
        let names = below
            .list(&below.root())
            .map_err(UnpackError::io("list below", b"/"))?;
        for name in names {
            let hidden = whiteout::hide(&self.own, &name, self.userxattr)
                .map_err(UnpackError::io("hide", &name))?;
            if hidden == Hidden::Made {
                self.record.head.names += 1;
                self.record.head.inodes += 1;
            }
        }
        Ok(())
    }

    /// Replaces the placeholders of hard links into lower layers, in the order of the tar.
    fn link(&mut self, whole: &Merged, links: &[PendingLink]) -> Result<(), UnpackError> {
        let mut open: HashSet<&[u8]> = links.iter().map(|link| link.path.as_slice()).collect();
        // Names of one file below are names of one file here.
        let mut copies: HashMap<(usize, Vec<u8>), Vec<u8>> = HashMap::new();
        for link in links {
            let refused = |reason| UnpackError::refused(&link.path, reason);
            let none = || refused(Refusal::NoTarget(display(&link.target)));
            let object = match whole.resolve(&link.target, false) {
                Ok(Some(Found::Other(object))) => object,
                Ok(Some(Found::Dir(_))) => {
                    let target = display(&link.target);
                    return Err(refused(Refusal::DirectoryTarget(target)));
                }
                Ok(None) => return Err(none()),
                Err(WalkError::TooManyLinks) => return Err(refused(Refusal::Links)),
                Err(WalkError::Io(errno)) => {
                    return Err(UnpackError::io("find the target of", &link.path)(errno));
                }
            };
            let own = object.layer == self.index;
            if own && open.contains(object.path.as_slice()) {
                return Err(none());
            }
            let here = if own {
                Some(object.path.clone())
            } else {
                copies.get(&(object.layer, object.path.clone())).cloned()
            };
            self.replace(whole, link, &object, here.as_deref())?;
            open.remove(link.path.as_slice());
            copies
                .entry((object.layer, object.path))
                .or_insert_with(|| link.path.clone());
        }
        Ok(())
    }

    /// Puts the target in the place of one placeholder: a link to `here` if there is one, else a
    /// copy.
    fn replace(
        &mut self,
        whole: &Merged,
        link: &PendingLink,
        object: &Object,
        here: Option<&[u8]>,
    ) -> Result<(), UnpackError> {
        let failed = || UnpackError::io("link", &link.path);
        let (dir, name) = parent(&self.own, &link.path).map_err(failed())?;
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(failed())?;
        if let Some(target) = here {
            let (from, old) = parent(&self.own, target).map_err(failed())?;
            self.record.head.inodes = self.record.head.inodes.saturating_sub(1);
            return rustix::fs::linkat(&from, old, &dir, name, AtFlags::empty()).map_err(failed());
        }
        if let Some(file) = copy(whole, object, &dir, name, &link.path)? {
            let bytes = file.segments.as_ref().map_or(file.size, |segments| {
                segments.iter().map(|(_, len)| *len).sum()
            });
            self.record.head.content_bytes += bytes;
            self.record.head.disk_bytes += bytes.next_multiple_of(4096);
            self.record.files.push(file);
        }
        Ok(())
    }
}

/// The open parent of `path` below `root`, and the last component.
fn parent<'a>(root: &OwnedFd, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Errno> {
    let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at), path.get(at + 1..)),
        None => (Some(b".".as_slice()), Some(path)),
    };
    let dir = path_of(
        root,
        dir.unwrap_or_default(),
        OFlags::PATH | OFlags::DIRECTORY,
    )?;
    Ok((dir, name.unwrap_or_default()))
}

/// Copies the directories below `from` and links everything else into them.
fn clone_tree(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let source = open_dir(from)?;
    let mut clone = Clone { at: open_dir(to)? };
    tree::walk(source, &mut clone).map_err(SnapshotError::io("link the files of", from))?;
    copy_dir_meta(&open_dir(from)?, &clone.at).map_err(SnapshotError::io("copy the root of", from))
}

struct Clone {
    /// The directory that is made from the one that the walk is in.
    at: OwnedFd,
}

impl Visitor for Clone {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, kind: FileType) -> Result<(), Errno> {
        if kind == FileType::Directory {
            return Ok(());
        }
        rustix::fs::linkat(dir, name, &self.at, name, AtFlags::empty())
    }

    fn open(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
        let child = rustix::fs::openat(parent, name, DIR, Mode::empty())?;
        rustix::fs::mkdirat(&self.at, name, Mode::RWXU)?;
        self.at = rustix::fs::openat(&self.at, name, DIR, Mode::empty())?;
        Ok(child)
    }

    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
        let child = rustix::fs::openat(parent, name, DIR, Mode::empty())?;
        copy_dir_meta(&child, &self.at)?;
        // Nobody else knows of the copy, so `..` is where it was made.
        self.at = rustix::fs::openat(self.at.as_fd(), c"..", DIR, Mode::empty())?;
        Ok(())
    }
}

fn copy_dir_meta(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let meta = Meta {
        xattrs: read_xattrs(from)?,
        ..Meta::of(&rustix::fs::fstat(from)?)
    };
    meta.set_raw(to, None).map_err(|(_, errno)| errno)
}
