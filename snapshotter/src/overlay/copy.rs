//! Copying one object of a lower layer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use crate::merged::{Merged, Object};
use crate::record::{FileRecord, TarPath};
use crate::unpack::{Meta, UnpackError};

/// Makes `name` in `dir` a copy of `object`, which is no directory. `path` is where that is in
/// the layer. Answers the record of a regular file.
pub(super) fn copy(
    layers: &Merged,
    object: &Object,
    dir: &OwnedFd,
    name: &[u8],
    path: &[u8],
) -> Result<Option<FileRecord>, UnpackError> {
    let failed = || UnpackError::io("copy up", path);
    let mut meta = Meta::of(&object.stat);
    match object.kind() {
        FileType::RegularFile => {
            let from = layers.open_at(object.layer, &object.path, OFlags::RDONLY);
            let from = from.map_err(failed())?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
            let to = to.map_err(failed())?;
            meta = Meta::read(&from).map_err(failed())?;
            let (from, to) = (File::from(from), File::from(to));
            let record = content(&from, &to, path).map_err(UnpackError::io("copy up", path))?;
            meta.set(&to.into(), path)?;
            return Ok(Some(record));
        }
        FileType::Symlink => {
            let target = layers.target(object).map_err(failed())?;
            rustix::fs::symlinkat(target, dir, name).map_err(failed())?;
        }
        kind @ (FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Directory
        | FileType::Unknown) => {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(dir, name, kind, mode, object.stat.st_rdev).map_err(failed())?;
        }
    }
    meta.set_at(dir, name, object.kind() == FileType::Symlink, path)?;
    Ok(None)
}

/// Copies what is not a hole: a hole may be larger than any disk.
fn content(from: &File, to: &File, path: &[u8]) -> std::io::Result<FileRecord> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut hash = Xxh3::new();
    let mut segments = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    let mut end = 0;
    while end < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        segments.push((start, end - start));
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got = from.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
            if got == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let part = buffer.get(..got).unwrap_or_default();
            hash.update(part);
            to.write_all_at(part, at)?;
            at += u64::try_from(got).unwrap_or(0);
        }
    }
    let whole = segments == [(0, size)] || size == 0;
    Ok(FileRecord {
        path: TarPath(path.to_vec()),
        size,
        xxh3: hash.digest(),
        segments: (!whole).then_some(segments),
    })
}
