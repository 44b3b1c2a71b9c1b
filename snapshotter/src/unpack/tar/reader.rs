//! A stream of entries.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::header::sparse_pairs;
use super::{BLOCK, Header, Kind, MAX_EXTENSION, OldSparse, PaxRecord, SparseMap, TarError};
use super::{parse_header, parse_pax, parse_sparse_text, parse_sparse_values};
use super::{pax, sparse};

/// Why the next entry or its content could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream failed.
    #[error("read the archive")]
    Io(#[source] io::Error),
    /// The stream is no tar.
    #[error("at byte {0}")]
    Tar(u64, #[source] TarError),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file: its size, and the parts that have content where it is sparse. The content
    /// is what [`TarReader::chunk`] gives, the parts one after the other.
    File(u64, Option<SparseMap>),
    /// Another name of the file of this name.
    HardLink(Vec<u8>),
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// A character device, major and minor number.
    CharDevice(u64, u64),
    /// A block device, major and minor number.
    BlockDevice(u64, u64),
    /// A directory.
    Directory,
    /// A fifo.
    Fifo,
}

/// One entry with everything that was said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a tar entry by entry.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes taken from the stream.
    offset: u64,
    /// Content of the current entry that is left.
    left: u64,
    /// Zeros after it.
    padding: u64,
    /// The records of global headers that count.
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What extension headers say of the next entry.
#[derive(Debug, Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<PaxRecord>,
    any: bool,
}

/// What pax records say of a sparse file.
#[derive(Debug, Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Option<SparseMap>,
    /// Format 0.0: offset and length as records of their own.
    numbers: Vec<u64>,
    /// Format 1.0: the map is in the content.
    major: bool,
}

impl<R: BufRead> TarReader<R> {
    /// A reader at the start of an archive.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            left: 0,
            padding: 0,
            global: BTreeMap::new(),
        }
    }

    /// The stream, at wherever reading stopped.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn bad<T>(&self, error: TarError) -> Result<T, ReadError> {
        Err(ReadError::Tar(self.offset, error))
    }

    fn at<T>(&self, result: Result<T, TarError>) -> Result<T, ReadError> {
        result.or_else(|error| self.bad(error))
    }

    /// The next entry, or `None` at the end of the archive. What is left of the content of the
    /// one before is skipped.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.header()? else {
                return if extension.any {
                    self.bad(TarError::DanglingExtension)
                } else {
                    Ok(None)
                };
            };
            match header.kind {
                Kind::Pax => {
                    let payload = self.payload()?;
                    extension.pax = self.at(parse_pax(&payload))?;
                }
                Kind::PaxGlobal => {
                    let payload = self.payload()?;
                    for (key, value) in self.at(parse_pax(&payload))? {
                        if matches!(key.as_slice(), b"uid" | b"gid" | b"mtime") {
                            self.global.insert(key, value);
                        }
                    }
                    continue;
                }
                Kind::LongName => extension.name = Some(self.long()?),
                Kind::LongLink => extension.link = Some(self.long()?),
                Kind::VolumeLabel => continue,
                Kind::File
                | Kind::HardLink
                | Kind::Symlink
                | Kind::CharDevice
                | Kind::BlockDevice
                | Kind::Directory
                | Kind::DumpDirectory
                | Kind::Fifo
                | Kind::Sparse => return self.entry(header, extension).map(Some),
            }
            extension.any = true;
        }
    }

    /// The next header, past what is left of the entry before.
    fn header(&mut self) -> Result<Option<Header>, ReadError> {
        self.skip(self.left)?;
        self.skip(self.padding)?;
        (self.left, self.padding) = (0, 0);
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if let Some(header) = self.at(parse_header(&block))? {
            self.content(header.size);
            return Ok(Some(header));
        }
        match self.block()? {
            Some(block) if block != [0; BLOCK] => self.bad(TarError::LoneZeroBlock),
            _ => Ok(None),
        }
    }

    /// Sets how much content follows.
    fn content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ReadError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(room) = block.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.input.read(room) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return self.bad(TarError::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// What the stream has buffered of the next `limit` bytes; empty only for a limit of 0.
    fn peek(&mut self, limit: u64) -> Result<&[u8], ReadError> {
        if limit == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let buffer = loop {
            match self.input.fill_buf() {
                Ok(_) => break self.input.fill_buf(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        };
        let buffer = buffer.map_err(ReadError::Io)?;
        if buffer.is_empty() {
            return Err(ReadError::Tar(offset, TarError::Truncated));
        }
        let len = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        Ok(buffer.get(..len).unwrap_or_default())
    }

    fn take(&mut self, len: usize) {
        self.input.consume(len);
        self.offset += len as u64;
    }

    fn skip(&mut self, mut count: u64) -> Result<(), ReadError> {
        while count > 0 {
            let len = self.peek(count)?.len();
            self.take(len);
            count -= len as u64;
        }
        Ok(())
    }

    /// The next part of the current file's content; empty at its end. [`consume`](Self::consume)
    /// moves on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn chunk(&mut self) -> Result<&[u8], ReadError> {
        self.peek(self.left)
    }

    /// Marks `len` bytes of what [`chunk`](Self::chunk) gave as used.
    pub fn consume(&mut self, len: usize) {
        self.take(len);
        self.left = self.left.saturating_sub(len as u64);
    }

    /// The whole content of an extension header.
    fn payload(&mut self) -> Result<Vec<u8>, ReadError> {
        if self.left > MAX_EXTENSION {
            return self.bad(TarError::ExtensionSize(self.left));
        }
        let mut payload = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(payload);
            }
            payload.extend_from_slice(chunk);
            let len = chunk.len();
            self.consume(len);
        }
    }

    /// A GNU long name, which ends with a NUL.
    fn long(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut name = self.payload()?;
        name.truncate(
            name.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len()),
        );
        Ok(name)
    }

    fn entry(&mut self, header: Header, extension: Extension) -> Result<Entry, ReadError> {
        let mut sparse = PaxSparse::default();
        let mut link = extension.link.unwrap_or(header.link);
        let mut stored = header.size;
        let mut entry = Entry {
            name: extension.name.unwrap_or(header.name),
            kind: EntryKind::Directory,
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: (header.mtime, 0),
            xattrs: Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        let global = self.global.clone();
        for (key, value) in global
            .iter()
            .chain(extension.pax.iter().map(|(k, v)| (k, v)))
        {
            if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
                // An empty value takes back what was said before, and the header counts again.
                restore(&mut entry, key, header.uid, header.gid, header.mtime);
                continue;
            }
            match key.as_slice() {
                b"linkpath" => link = value.clone(),
                b"size" => stored = self.at(pax::number(key, value))?,
                _ => self.at(apply(&mut entry, &mut sparse, &mut xattrs, key, value))?,
            }
        }
        entry.xattrs = xattrs.into_iter().collect();
        // These have no content whatever their size says; the size of a directory is a hint.
        if !matches!(header.kind, Kind::File | Kind::Sparse | Kind::DumpDirectory) {
            self.content(0);
        }
        entry.kind = match header.kind {
            Kind::HardLink => EntryKind::HardLink(link),
            Kind::Symlink => EntryKind::Symlink(link),
            Kind::CharDevice => EntryKind::CharDevice(header.device.0, header.device.1),
            Kind::BlockDevice => EntryKind::BlockDevice(header.device.0, header.device.1),
            Kind::Directory | Kind::DumpDirectory => EntryKind::Directory,
            Kind::Fifo => EntryKind::Fifo,
            Kind::File
            | Kind::Sparse
            | Kind::Pax
            | Kind::PaxGlobal
            | Kind::LongName
            | Kind::LongLink
            | Kind::VolumeLabel => {
                self.content(stored);
                if let Some(name) = sparse.name.take() {
                    entry.name = name;
                }
                self.file(header.sparse, sparse)?
            }
        };
        Ok(entry)
    }

    /// A regular file with `self.left` bytes of content.
    fn file(&mut self, old: Option<OldSparse>, sparse: PaxSparse) -> Result<EntryKind, ReadError> {
        if let Some(OldSparse {
            mut map,
            real,
            mut more,
        }) = old
        {
            while more {
                let Some(block) = self.block()? else {
                    return self.bad(TarError::Truncated);
                };
                map.extend(self.at(sparse_pairs(block.get(..504).unwrap_or_default()))?);
                more = block.get(504).is_some_and(|byte| *byte != 0);
                if map.len() as u64 * 24 > MAX_EXTENSION {
                    return self.bad(TarError::Sparse);
                }
            }
            return self.sparse(map, real);
        }
        let Some(real) = sparse.size else {
            return Ok(EntryKind::File(self.left, None));
        };
        if sparse.major {
            let map = self.map()?;
            return self.sparse(map, real);
        }
        let map = match sparse.map {
            Some(map) => map,
            None => self.at(sparse::pairs(&sparse.numbers))?,
        };
        self.sparse(map, real)
    }

    fn sparse(&mut self, map: SparseMap, real: u64) -> Result<EntryKind, ReadError> {
        let map = self.at(sparse::check(map, real, self.left))?;
        Ok(EntryKind::File(real, Some(map)))
    }

    /// Reads a map of format 1.0 from the start of the content, in whole blocks.
    fn map(&mut self) -> Result<SparseMap, ReadError> {
        let mut text = Vec::new();
        let mut lines = 0_u64;
        loop {
            if (text.len() as u64) >= MAX_EXTENSION || self.left < BLOCK as u64 {
                return self.bad(TarError::Sparse);
            }
            let Some(block) = self.block()? else {
                return self.bad(TarError::Truncated);
            };
            self.left -= BLOCK as u64;
            lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
            text.extend_from_slice(&block);
            // Parsed in full only when it is complete, so that a long map costs its length.
            if lines >= self.at(sparse::lines(&text))?.unwrap_or(u64::MAX) {
                return match self.at(parse_sparse_text(&text))? {
                    Some((map, _)) => Ok(map),
                    None => self.bad(TarError::Sparse),
                };
            }
        }
    }
}

/// Takes back what earlier records said of one property.
fn restore(entry: &mut Entry, key: &[u8], uid: u64, gid: u64, mtime: i64) {
    match key {
        b"uid" => entry.uid = uid,
        b"gid" => entry.gid = gid,
        b"mtime" => entry.mtime = (mtime, 0),
        _ => {}
    }
}

fn apply(
    entry: &mut Entry,
    sparse: &mut PaxSparse,
    xattrs: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    key: &[u8],
    value: &[u8],
) -> Result<(), TarError> {
    match key {
        b"path" => entry.name = value.to_vec(),
        b"uid" => entry.uid = pax::number(key, value)?,
        b"gid" => entry.gid = pax::number(key, value)?,
        b"mtime" => entry.mtime = pax::time(key, value)?,
        b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
            sparse.size = Some(pax::number(key, value)?);
        }
        b"GNU.sparse.major" => sparse.major = pax::number(key, value)? == 1,
        b"GNU.sparse.map" => sparse.map = Some(parse_sparse_values(value)?),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            // They come in pairs, the offset first.
            let offset = key.ends_with(b"offset");
            if offset != sparse.numbers.len().is_multiple_of(2) {
                return Err(TarError::Sparse);
            }
            sparse.numbers.push(pax::number(key, value)?);
        }
        _ => {
            if let Some((name, value)) = pax::xattr(key, value)? {
                xattrs.insert(name, value);
            }
        }
    }
    Ok(())
}
