//! Comparing a committed layer with its record.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::layout::{Layout, open_dir};
use crate::record::{FileRecord, LayerRecord, RecordError};
use crate::{Damage, LayerId, SnapshotError, tree};

pub(super) fn verify(layout: &Layout, id: &LayerId) -> Result<Vec<Damage>, SnapshotError> {
    let layer = layout.layer(id);
    let root = match open_dir(&layer.join("fs")) {
        Err(SnapshotError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(SnapshotError::NoLayer(*id));
        }
        other => other?,
    };
    let failed = |source| SnapshotError::Record { layer: *id, source };
    let json = std::fs::read(layer.join("layer.json"))
        .map_err(|error| failed(RecordError::Read(error)))?;
    let record = LayerRecord::parse(&json).map_err(failed)?;
    let mut damage = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    for file in &record.files {
        let path = PathBuf::from(OsStr::from_bytes(&file.path.0));
        damage.extend(compare(&root, file, &path, &mut buffer)?);
    }
    let (names, _) = tree::count(root).map_err(SnapshotError::io("list", &layer))?;
    if names != record.head.names {
        damage.push(Damage::Names(record.head.names, names));
    }
    Ok(damage)
}

fn compare(
    root: &OwnedFd,
    record: &FileRecord,
    path: &Path,
    buffer: &mut [u8],
) -> Result<Option<Damage>, SnapshotError> {
    let missing = || Ok(Some(Damage::Missing(path.to_owned())));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return missing(),
        Err(errno) => return Err(SnapshotError::io("open", path)(errno)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(SnapshotError::io("look at", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return missing();
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size != record.size {
        return Ok(Some(Damage::Size(path.to_owned(), record.size, size)));
    }
    let whole = [(0, size)];
    let segments = record.segments.as_deref().unwrap_or(&whole);
    let sum =
        checksum(&File::from(fd), segments, buffer).map_err(SnapshotError::io("read", path))?;
    Ok((sum != record.xxh3).then(|| Damage::Content(path.to_owned())))
}

fn checksum(file: &File, segments: &[(u64, u64)], buffer: &mut [u8]) -> std::io::Result<u64> {
    let mut hash = Xxh3::new();
    for (offset, len) in segments {
        let (mut at, end) = (*offset, offset.saturating_add(*len));
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let Some(room) = buffer.get_mut(..want) else {
                break;
            };
            let got = file.read_at(room, at)?;
            if got == 0 {
                break;
            }
            hash.update(room.get(..got).unwrap_or_default());
            at += u64::try_from(got).unwrap_or(0);
        }
    }
    Ok(hash.digest())
}
