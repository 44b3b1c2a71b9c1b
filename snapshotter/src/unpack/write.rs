//! Making what a tar describes.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::error::{Refusal, UnpackError};
use super::path::{Dirs, Implied, LayerDir, components, path_of};
use super::tar::{Entry, EntryKind, TarReader};
use super::whiteout::{self, Hidden, Meaning};
use super::{Applied, Meta, PendingLink, UnpackOptions, display, read};
use crate::merged::{is_whiteout, join};
use crate::record::{FileRecord, TarPath};
use crate::{Compression, tree};

/// The most bytes of names of implied directories. Real layers stay below one MiB.
const MAX_IMPLIED: usize = 64 << 20;

/// What has to be remembered of a name until the end.
#[derive(Debug)]
enum Node {
    Directory(Directory),
    /// A regular file: size, checksum, parts with content.
    File(u64, u64, Option<Vec<(u64, u64)>>),
    /// The placeholder of a hard link to this target, and its turn.
    Pending(Vec<u8>, usize),
}

#[derive(Debug, Default)]
struct Directory {
    /// What the tar says of it; nothing for one that is only implied.
    meta: Option<Meta>,
    /// It hides what it has below.
    opaque: bool,
    /// It is another directory than the one below, if there is one, so it takes nothing over.
    new: bool,
}

/// Applies entries to a directory that nobody else knows.
#[derive(Debug)]
pub(super) struct Writer {
    dirs: Dirs,
    options: UnpackOptions,
    /// By path in the layer, through no link. The root is the empty path.
    nodes: BTreeMap<Vec<u8>, Node>,
    /// User and group that files are created as.
    creator: (u32, u32),
    content: u64,
    implied_bytes: usize,
    pending: usize,
    root_opaque: bool,
    names: u64,
    inodes: u64,
    /// Something was removed, so that names and inodes are to be counted anew.
    recount: bool,
}

/// Where an entry goes.
struct Place<'a> {
    dir: Rc<LayerDir>,
    name: &'a [u8],
    /// In the layer, through no link.
    path: Vec<u8>,
}

impl Writer {
    pub(super) fn new(root: OwnedFd, options: UnpackOptions) -> Self {
        let node = Node::Directory(Directory::default());
        let creator = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Self {
            dirs: Dirs::new(root),
            options,
            nodes: BTreeMap::from([(Vec::new(), node)]),
            creator,
            content: 0,
            implied_bytes: 0,
            pending: 0,
            root_opaque: false,
            names: 0,
            inodes: 0,
            recount: false,
        }
    }

    /// Applies one entry, with its content from `tar`.
    pub(super) fn entry<R: BufRead>(
        &mut self,
        entry: Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.dirs.entry();
        let Entry {
            name,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = entry;
        let refused = |reason| UnpackError::refused(&name, reason);
        let parts = components(&name).map_err(refused)?;
        let meta = Meta {
            mode,
            uid: owner(uid).map_err(refused)?,
            gid: owner(gid).map_err(refused)?,
            mtime,
            xattrs,
        };
        meta.check(&name)?;
        let Some((last, dirs)) = parts.split_last() else {
            return match kind {
                EntryKind::Directory => {
                    self.known(b"")?.meta = Some(meta);
                    Ok(())
                }
                EntryKind::File(..)
                | EntryKind::HardLink(_)
                | EntryKind::Symlink(_)
                | EntryKind::CharDevice(..)
                | EntryKind::BlockDevice(..)
                | EntryKind::Fifo => Err(refused(Refusal::Root)),
            };
        };
        match whiteout::meaning(&parts).map_err(refused)? {
            Meaning::Ignore => Ok(()),
            Meaning::Opaque => self.opaque(dirs, &name),
            Meaning::Whiteout(hidden) => {
                let place = self.place(dirs, hidden, &name)?;
                self.whiteout(&place)
            }
            Meaning::Entry => {
                let place = self.place(dirs, last, &name)?;
                self.make(&place, kind, meta, tar)
            }
        }
    }

    fn make<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        kind: EntryKind,
        meta: Meta,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let device =
            |kind, major: u64, minor: u64| match (u32::try_from(major), u32::try_from(minor)) {
                // What the kernel's dev_t holds (MKDEV in linux/kdev_t.h).
                (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => {
                    Ok((kind, rustix::fs::makedev(major, minor)))
                }
                _ => Err(UnpackError::refused(
                    &place.path,
                    Refusal::Device(major, minor),
                )),
            };
        let (kind, number) = match kind {
            EntryKind::Directory => return self.directory(place, meta),
            EntryKind::File(size, parts) => return self.file(place, size, parts, &meta, tar),
            EntryKind::HardLink(target) => return self.hard_link(place, &target),
            EntryKind::Symlink(target) => return self.symlink(place, &target, &meta),
            EntryKind::CharDevice(0, 0) => return self.whiteout(place),
            EntryKind::CharDevice(major, minor) => device(FileType::CharacterDevice, major, minor)?,
            EntryKind::BlockDevice(major, minor) => device(FileType::BlockDevice, major, minor)?,
            EntryKind::Fifo => (FileType::Fifo, 0),
        };
        self.create(place, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, number)
        })?;
        meta.set_at(&place.dir.fd, place.name, false, &place.path)
    }

    /// The directory that these components name; what is missing is made.
    fn dir(&mut self, dirs: &[&[u8]], name: &[u8]) -> Result<Rc<LayerDir>, UnpackError> {
        let mut implied = Vec::new();
        let dir = self.dirs.get(dirs, name, Some(&mut implied))?;
        for Implied {
            path,
            replaces_whiteout,
        } in implied
        {
            self.implied_bytes += path.len();
            if self.implied_bytes > MAX_IMPLIED {
                return Err(UnpackError::refused(name, Refusal::TooManyImplied));
            }
            self.recount |= replaces_whiteout;
            (self.names, self.inodes) = (self.names + 1, self.inodes + 1);
            self.nodes
                .insert(path.clone(), Node::Directory(Directory::default()));
            if replaces_whiteout {
                self.hide_below(&path, true)?;
            }
        }
        dir.ok_or_else(|| UnpackError::refused(name, Refusal::NotADirectory))
    }

    fn place<'a>(
        &mut self,
        dirs: &[&[u8]],
        name: &'a [u8],
        full: &[u8],
    ) -> Result<Place<'a>, UnpackError> {
        let dir = self.dir(dirs, full)?;
        let path = join(&dir.path, name);
        if path.len() > super::path::MAX_PATH {
            return Err(UnpackError::refused(full, Refusal::TooLong));
        }
        Ok(Place { dir, name, path })
    }

    /// Runs `make`, which fails if the name is taken, and makes room once if so.
    fn create<T>(
        &mut self,
        place: &Place<'_>,
        make: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let made = match make(&place.dir.fd, place.name) {
            Err(Errno::EXIST) => {
                self.clear(place)?;
                make(&place.dir.fd, place.name)
            }
            other => other,
        };
        (self.names, self.inodes) = (self.names + 1, self.inodes + 1);
        made.map_err(UnpackError::io("create", &place.path))
    }

    /// Removes what an earlier entry made under the name.
    fn clear(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        self.recount = true;
        // What is open could be, or be reached through, what is removed.
        self.dirs.forget();
        let name = std::ffi::CString::new(place.name)
            .map_err(|_| UnpackError::refused(&place.path, Refusal::Nul))?;
        tree::remove_at(&place.dir.fd, &name).map_err(UnpackError::io("replace", &place.path))?;
        self.nodes.remove(&place.path);
        for path in self.below(&place.path) {
            self.nodes.remove(&path);
        }
        Ok(())
    }

    /// The known paths in a directory and its subdirectories.
    fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [path, b"/"].concat();
        // The byte after a slash starts what no longer has the prefix.
        let end = [path, b"0"].concat();
        let range = (Bound::Excluded(prefix), Bound::Excluded(end));
        self.nodes
            .range(range)
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// What is remembered of the directory at `path`.
    fn known(&mut self, path: &[u8]) -> Result<&mut Directory, UnpackError> {
        let node = self.nodes.entry(path.to_vec());
        match node.or_insert_with(|| Node::Directory(Directory::default())) {
            Node::Directory(directory) => Ok(directory),
            // Only a directory is known where one was made or found.
            Node::File(..) | Node::Pending(..) => {
                Err(UnpackError::refused(path, Refusal::NotADirectory))
            }
        }
    }

    fn directory(&mut self, place: &Place<'_>, meta: Meta) -> Result<(), UnpackError> {
        let (dir, name) = (&place.dir.fd, place.name);
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => (self.names, self.inodes) = (self.names + 1, self.inodes + 1),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(UnpackError::io("look at", &place.path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.clear(place)?;
                    rustix::fs::mkdirat(dir, name, Mode::RWXU)
                        .map_err(UnpackError::io("create", &place.path))?;
                    if is_whiteout(&stat) {
                        self.hide_below(&place.path, true)?;
                    }
                }
            }
            Err(errno) => return Err(UnpackError::io("create", &place.path)(errno)),
        }
        self.known(&place.path)?.meta = Some(meta);
        Ok(())
    }

    /// Makes a directory of the layer opaque; `new` as in [`Directory`].
    fn hide_below(&mut self, path: &[u8], new: bool) -> Result<(), UnpackError> {
        let failed = || UnpackError::io("make opaque", path);
        let dir = path_of(self.dirs.root(), path, OFlags::PATH | OFlags::DIRECTORY);
        whiteout::make_opaque(&dir.map_err(failed())?, self.options.userxattr).map_err(failed())?;
        let directory = self.known(path)?;
        directory.opaque = true;
        directory.new |= new;
        Ok(())
    }

    fn opaque(&mut self, dirs: &[&[u8]], name: &[u8]) -> Result<(), UnpackError> {
        let dir = self.dir(dirs, name)?;
        if dir.path.is_empty() {
            self.root_opaque = true;
            return Ok(());
        }
        self.hide_below(&dir.path, false)
    }

    fn whiteout(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        let hidden = whiteout::hide(&place.dir.fd, place.name, self.options.userxattr)
            .map_err(UnpackError::io("make a whiteout of", &place.path))?;
        match hidden {
            Hidden::Made => (self.names, self.inodes) = (self.names + 1, self.inodes + 1),
            Hidden::Opaque => {
                let directory = self.known(&place.path)?;
                (directory.opaque, directory.new) = (true, true);
            }
            Hidden::Already => {}
        }
        Ok(())
    }

    fn symlink(
        &mut self,
        place: &Place<'_>,
        target: &[u8],
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        if target.contains(&0) {
            return Err(UnpackError::refused(&place.path, Refusal::Nul));
        }
        self.create(place, |dir, name| rustix::fs::symlinkat(target, dir, name))?;
        meta.set_at(&place.dir.fd, place.name, true, &place.path)
    }

    fn hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<(), UnpackError> {
        let refused = |reason| UnpackError::refused(&place.path, reason);
        let parts = components(target).map_err(refused)?;
        let Some((last, dirs)) = parts.split_last() else {
            return Err(refused(Refusal::DirectoryTarget(display(target))));
        };
        if whiteout::meaning(&parts).map_err(refused)? != Meaning::Entry {
            return Err(refused(Refusal::NoTarget(display(target))));
        }
        let failed = || UnpackError::io("link", &place.path);
        let Some(dir) = self.dirs.get(dirs, &place.path, None)? else {
            return self.pending(place, parts.join(&b'/'));
        };
        let path = join(&dir.path, last);
        if path == place.path {
            // A link to itself says nothing.
            return Ok(());
        }
        if let Some(Node::Pending(target, _)) = self.nodes.get(&path) {
            let target = target.clone();
            return self.pending(place, target);
        }
        let stat = match rustix::fs::statat(&dir.fd, *last, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return self.pending(place, path),
            other => other.map_err(failed())?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refused(Refusal::DirectoryTarget(display(target))));
        }
        if is_whiteout(&stat) {
            return Err(refused(Refusal::NoTarget(display(target))));
        }
        if place.path.len() < path.len() && path.starts_with(&[&place.path[..], b"/"].concat()) {
            // It would have to replace a directory that holds its own target.
            return Err(refused(Refusal::NoTarget(display(target))));
        }
        self.create(place, |to, name| {
            rustix::fs::linkat(&dir.fd, *last, to, name, AtFlags::empty())
        })?;
        self.inodes = self.inodes.saturating_sub(1);
        Ok(())
    }

    /// A hard link to what only a layer below can have.
    fn pending(&mut self, place: &Place<'_>, target: Vec<u8>) -> Result<(), UnpackError> {
        self.create(place, |dir, name| create_file(dir, name, Mode::empty()))?;
        self.nodes
            .insert(place.path.clone(), Node::Pending(target, self.pending));
        self.pending += 1;
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        size: u64,
        parts: Option<Vec<(u64, u64)>>,
        meta: &Meta,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = self.create(place, |dir, name| create_file(dir, name, mode))?;
        let mut hash = Xxh3::new();
        let whole = [(0, size)];
        for (offset, len) in parts.as_deref().unwrap_or(&whole) {
            self.content = self.content.saturating_add(*len);
            if self.content > self.options.max_bytes {
                return Err(UnpackError::TooLarge(self.options.max_bytes));
            }
            let mut at = *offset;
            let end = offset.saturating_add(*len);
            while at < end {
                let chunk = tar
                    .chunk()
                    .map_err(|error| read(error, Compression::Detect))?;
                let want = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                let chunk = chunk.get(..want).unwrap_or_default();
                hash.update(chunk);
                write_at(&fd, chunk, at).map_err(UnpackError::io("write", &place.path))?;
                at += want as u64;
                tar.consume(want);
            }
        }
        if parts.is_some() {
            rustix::fs::ftruncate(&fd, size).map_err(UnpackError::io("extend", &place.path))?;
        }
        meta.set_fresh(&fd, self.creator, &place.path)?;
        self.nodes
            .insert(place.path.clone(), Node::File(size, hash.digest(), parts));
        Ok(())
    }

    /// Completes the directories and answers what was made.
    pub(super) fn finish(mut self) -> Result<Applied, UnpackError> {
        self.forget_hidden();
        let mut applied = Applied {
            root_opaque: self.root_opaque,
            ..Applied::default()
        };
        let mut pending = Vec::new();
        for (path, node) in std::mem::take(&mut self.nodes) {
            match node {
                Node::Directory(Directory { meta, new, .. }) => {
                    applied.disk_bytes += 4096;
                    self.finish_dir(&path, meta.as_ref())?;
                    if meta.is_none() && !new {
                        applied.implied.push(TarPath(path));
                    }
                }
                Node::File(size, xxh3, segments) => {
                    let bytes = segments
                        .as_ref()
                        .map_or(size, |parts| parts.iter().map(|(_, len)| *len).sum());
                    applied.content_bytes += bytes;
                    applied.disk_bytes += bytes.next_multiple_of(4096);
                    let path = TarPath(path);
                    applied.files.push(FileRecord {
                        path,
                        size,
                        xxh3,
                        segments,
                    });
                }
                Node::Pending(target, turn) => pending.push((turn, PendingLink { path, target })),
            }
        }
        pending.sort_unstable_by_key(|(turn, _)| *turn);
        applied.pending = pending.into_iter().map(|(_, link)| link).collect();
        (applied.names, applied.inodes) = (self.names, self.inodes);
        if self.recount {
            let root = path_of(self.dirs.root(), b"", OFlags::RDONLY | OFlags::DIRECTORY);
            let root = root.map_err(UnpackError::io("open", b"."))?;
            (applied.names, applied.inodes) =
                tree::count(root).map_err(UnpackError::io("list", b"."))?;
        }
        Ok(applied)
    }

    /// Directories in an opaque one have nothing below to take after.
    fn forget_hidden(&mut self) {
        let opaque: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node, Node::Directory(Directory { opaque: true, .. })))
            .map(|(path, _)| path.clone())
            .collect();
        // In order, so that one that lies in another opaque one is known to be done: each
        // directory is visited once.
        let mut done = std::collections::HashSet::new();
        for path in opaque {
            if done.contains(&path) {
                continue;
            }
            for path in self.below(&path) {
                if let Some(Node::Directory(directory)) = self.nodes.get_mut(&path) {
                    directory.new = true;
                    done.insert(path);
                }
            }
        }
    }

    fn finish_dir(&self, path: &[u8], meta: Option<&Meta>) -> Result<(), UnpackError> {
        let dir = path_of(self.dirs.root(), path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(UnpackError::io("open", path))?;
        match meta {
            Some(meta) => meta.set(&dir, path),
            None => rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))
                .map_err(UnpackError::io("set the mode of", path)),
        }
    }
}

fn owner(id: u64) -> Result<u32, Refusal> {
    // All ones means "leave as it is" to chown(2).
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(Refusal::Owner(id))
}

fn create_file(dir: &OwnedFd, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, mode)
}

fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno),
        };
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}
