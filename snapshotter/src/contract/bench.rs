//! What the checks share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::{
    Compression, DiffId, LayerId, OverlayMount, PrepareOptions, SnapshotKey, Snapshotter, mount,
};

/// Why a check failed.
pub type Failure = Box<dyn std::error::Error>;
/// One check; it gets a store without any layer.
pub type Check = fn(&Bench<'_>) -> Result<(), Failure>;

/// A store under test.
pub struct Bench<'a> {
    /// The store.
    pub store: &'a dyn Snapshotter,
    /// Makes what the owner of a snapshot has to make before it is prepared.
    pub home: &'a dyn Fn(&SnapshotKey) -> io::Result<()>,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Kind, permission bits, owner and content of every path of a mount, relative to its root, which
/// is the empty path.
pub(super) type Tree = BTreeMap<PathBuf, String>;

pub(super) fn ensure(what: &str, holds: bool) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(what.to_owned().into())
    }
}

pub(super) fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), Failure> {
    ensure(
        &format!("{what}: {found:?} instead of {expected:?}"),
        found == expected,
    )
}

/// A mount that is attached nowhere.
pub(super) struct Mounted(OwnedFd);

impl Mounted {
    pub(super) fn new(overlay: &OverlayMount) -> Result<Self, Failure> {
        Ok(Self(mount::detached(overlay)?))
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(path)
    }

    pub(super) fn tree(&self) -> Result<Tree, Failure> {
        let root = self.path("");
        let mut tree = Tree::new();
        let mut left = vec![root.clone()];
        while let Some(path) = left.pop() {
            let meta = std::fs::symlink_metadata(path.join(""));
            // Of the root, which is reached by a link, the directory counts.
            let meta = if path == root {
                meta?
            } else {
                std::fs::symlink_metadata(&path)?
            };
            let content = if meta.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
                String::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&path)?.display().to_string()
            } else {
                String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()
            };
            let line = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
            tree.insert(path.strip_prefix(&root)?.to_owned(), line);
        }
        Ok(tree)
    }
}

impl Bench<'_> {
    /// Unpacks and commits the layers of one image, bottom to top.
    pub(super) fn image(&self, tars: &[Vec<u8>]) -> Result<Vec<LayerId>, Failure> {
        let ids: Vec<DiffId> = tars.iter().map(|tar| DiffId::of(tar)).collect();
        let mut layers = Vec::new();
        for diff_id in self.store.missing(&ids)? {
            let tar = tars
                .iter()
                .find(|tar| DiffId::of(tar) == diff_id)
                .ok_or("not asked for")?;
            let ingest = self.store.begin_layer(&diff_id)?;
            layers.push(ingest.unpack(tar.as_slice(), Compression::Detect)?);
        }
        Ok(self.store.commit(&ids, layers)?)
    }

    pub(super) fn key(&self, name: &str) -> Result<SnapshotKey, Failure> {
        let key = name.parse()?;
        (self.home)(&key)?;
        Ok(key)
    }

    pub(super) fn prepare(
        &self,
        name: &str,
        layers: &[LayerId],
    ) -> Result<(SnapshotKey, Mounted), Failure> {
        let key = self.key(name)?;
        let overlay = self
            .store
            .prepare(&key, layers, &PrepareOptions::default())?;
        Ok((key, Mounted::new(&overlay)?))
    }

    /// The merged tree of an image.
    pub(super) fn tree(&self, layers: &[LayerId]) -> Result<Tree, Failure> {
        Mounted::new(&self.store.view(layers)?)?.tree()
    }
}

/// A directory as it stands in a [`Tree`].
pub(super) fn dir(mode: u32, owner: &str) -> String {
    format!("{:o} {owner} ", 0o040_000 | mode)
}

/// A file of root with mode 0644 as it stands in a [`Tree`].
pub(super) fn file(content: &str) -> String {
    format!("100644 0:0 {content}")
}

pub(super) fn of(pairs: &[(&str, String)]) -> Tree {
    pairs
        .iter()
        .map(|(path, line)| (PathBuf::from(path), line.clone()))
        .collect()
}
