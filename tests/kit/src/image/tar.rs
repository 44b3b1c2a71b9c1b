//! A tar writer for tests: pax format, fixed times, and no opinion about what is a good path.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const BLOCK: usize = 512;

/// Every entry's modification time unless it says otherwise: 2026-01-01 00:00:00 UTC.
pub const MTIME: i64 = 1_767_225_600;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(String),
    /// Another name of an earlier entry, by its path in the archive.
    Hardlink(String),
    /// A character device, major and minor.
    CharDevice(u32, u32),
    /// A block device, major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry, as it is written: neither path nor owner is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: Vec<u8>,
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: i64,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Self {
        let path = path.as_ref().to_vec();
        Self {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: MTIME,
            xattrs: BTreeMap::new(),
        }
    }

    /// A regular file, mode 0644.
    pub fn file(path: impl AsRef<[u8]>, data: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::File(data.into()), 0o644)
    }

    /// A directory, mode 0755.
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::Directory, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: &str) -> Self {
        Self::new(path, Kind::Symlink(target.to_owned()), 0o777)
    }

    /// A hard link to the archive path `target`.
    pub fn hardlink(path: impl AsRef<[u8]>, target: &str) -> Self {
        Self::new(path, Kind::Hardlink(target.to_owned()), 0o644)
    }

    /// Anything else.
    pub fn special(path: impl AsRef<[u8]>, kind: Kind) -> Self {
        Self::new(path, kind, 0o644)
    }

    /// An OCI whiteout of `name` in `dir`.
    #[must_use]
    pub fn whiteout(dir: &str, name: &str) -> Self {
        Self::file(join(dir, &format!(".wh.{name}")), "")
    }

    /// An OCI marker that hides everything that lower layers have in `dir`.
    #[must_use]
    pub fn opaque(dir: &str) -> Self {
        Self::file(join(dir, ".wh..wh..opq"), "")
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With this owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With this modification time, in seconds.
    #[must_use]
    pub fn mtime(mut self, seconds: i64) -> Self {
        self.mtime = seconds;
        self
    }

    /// With this extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.insert(name.to_owned(), value.into());
        self
    }

    /// Its path in the archive.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{}/{name}", dir.trim_end_matches('/'))
    }
}

/// Writes entries one after another.
#[derive(Debug, Default)]
pub struct TarBuilder {
    out: Vec<u8>,
}

impl TarBuilder {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        let (typeflag, link, data, device) = parts(&entry.kind);
        let mut pax = Vec::new();
        if entry.path.len() > 100 {
            pax_record(&mut pax, "path", &entry.path);
        }
        if link.len() > 100 {
            pax_record(&mut pax, "linkpath", link.as_bytes());
        }
        for (name, value) in &entry.xattrs {
            pax_record(&mut pax, &format!("SCHILY.xattr.{name}"), value);
        }
        if !pax.is_empty() {
            let extended = Entry::file("PaxHeaders/entry", "");
            self.header(&extended, b'x', "", pax.len(), (0, 0));
            self.data(&pax);
        }
        self.header(entry, typeflag, link, data.len(), device);
        self.data(data);
    }

    /// Adds several entries.
    pub fn extend<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        for entry in entries {
            self.push(entry);
        }
    }

    /// The archive with its end marker.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.out.resize(self.out.len() + 2 * BLOCK, 0);
        self.out
    }

    /// ustar header, POSIX.1-1988.
    fn header(&mut self, entry: &Entry, typeflag: u8, link: &str, size: usize, dev: (u32, u32)) {
        let mut header = Vec::with_capacity(BLOCK);
        text(&mut header, &entry.path, 100);
        octal(&mut header, u64::from(entry.mode & 0o7777), 8);
        octal(&mut header, entry.uid, 8);
        octal(&mut header, entry.gid, 8);
        octal(&mut header, size as u64, 12);
        octal(&mut header, entry.mtime.unsigned_abs(), 12);
        let checksum_at = header.len();
        header.extend_from_slice(b"        ");
        header.push(typeflag);
        text(&mut header, link.as_bytes(), 100);
        header.extend_from_slice(b"ustar\x0000");
        text(&mut header, b"", 64);
        octal(&mut header, u64::from(dev.0), 8);
        octal(&mut header, u64::from(dev.1), 8);
        header.resize(BLOCK, 0);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let checksum = format!("{sum:06o}\0 ");
        header.splice(checksum_at..checksum_at + 8, checksum.into_bytes());
        self.out.append(&mut header);
    }

    fn data(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
        self.out.resize(self.out.len().next_multiple_of(BLOCK), 0);
    }
}

fn parts(kind: &Kind) -> (u8, &str, &[u8], (u32, u32)) {
    match kind {
        Kind::File(data) => (b'0', "", data, (0, 0)),
        Kind::Hardlink(target) => (b'1', target, &[], (0, 0)),
        Kind::Symlink(target) => (b'2', target, &[], (0, 0)),
        Kind::CharDevice(major, minor) => (b'3', "", &[], (*major, *minor)),
        Kind::BlockDevice(major, minor) => (b'4', "", &[], (*major, *minor)),
        Kind::Directory => (b'5', "", &[], (0, 0)),
        Kind::Fifo => (b'6', "", &[], (0, 0)),
    }
}

fn text(header: &mut Vec<u8>, value: &[u8], width: usize) {
    let end = header.len() + width;
    header.extend(value.iter().take(width));
    header.resize(end, 0);
}

fn octal(header: &mut Vec<u8>, value: u64, width: usize) {
    header.extend_from_slice(format!("{value:0digits$o}\0", digits = width - 1).as_bytes());
}

/// "LENGTH KEY=VALUE\n", where LENGTH counts itself.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The entries of a directory tree on disk below `dir`, as archive paths; owners become root.
///
/// # Errors
/// When a file cannot be read or is neither file, directory nor symbolic link.
pub fn entries_of(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    walk(dir, dir, &mut entries)?;
    Ok(entries)
}

fn walk(root: &Path, dir: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    let mut children = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("list {}", dir.display()))?;
    children.sort();
    for path in children {
        let meta = path
            .symlink_metadata()
            .with_context(|| format!("stat {}", path.display()))?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .as_os_str()
            .as_bytes()
            .to_vec();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            entries.push(Entry::dir(name).mode(mode));
            walk(root, &path, entries)?;
        } else if meta.is_symlink() {
            let target =
                fs::read_link(&path).with_context(|| format!("read {}", path.display()))?;
            entries.push(Entry::symlink(name, &target.to_string_lossy()));
        } else if meta.is_file() {
            let data = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            entries.push(Entry::file(name, data).mode(mode));
        } else {
            bail!(
                "{} is neither file, directory nor symbolic link",
                path.display()
            );
        }
    }
    Ok(())
}
