//! Applying a layer's tar to an empty directory.
//!
//! # What a tar can do, and what not
//!
//! - Names lead nowhere but into the layer: `..` is refused, a leading slash is dropped, links
//!   that the same layer made are followed with the layer as the root. Nothing is created through
//!   a link: every create is exclusive and relative to a directory's descriptor.
//! - Later entries replace earlier ones of the same name, also of another kind. A directory that
//!   occurs twice keeps its content.
//! - A directory that is only implied gets mode 0755 and root as owner, until the layer is fitted
//!   to parents that know better.
//! - A hard link keeps the link's own name even where its target is a symbolic link. A target that
//!   this layer doesn't have is looked for below when the layer is committed.
//! - Attributes of overlayfs itself are refused. A character device 0:0 is a whiteout to
//!   overlayfs whatever we do, and is taken as one.
//! - Modes, owners, attributes and times of directories are set last: a default ACL, a setgid bit
//!   or a time set early would change, or be changed by, what is made in them.

mod decompress;
mod error;
mod meta;
mod path;
mod pipeline;
pub mod tar;
pub(crate) mod whiteout;
mod write;

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub use decompress::Compression;
pub use error::{Refusal, UnpackError};

pub(crate) use error::path as display;
pub(crate) use meta::{Meta, read_xattrs};
pub(crate) use path::path_of;

use crate::DiffId;
use crate::record::{FileRecord, TarPath};
use tar::{ReadError, TarReader};

/// How to unpack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnpackOptions {
    /// Where overlayfs' own attributes go.
    pub(crate) userxattr: bool,
    /// The most bytes of content.
    pub(crate) max_bytes: u64,
}

/// A hard link to a file that the layer doesn't have. An empty file without any permission keeps
/// its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingLink {
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
}

/// A tar that was applied.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) files: Vec<FileRecord>,
    pub(crate) implied: Vec<TarPath>,
    /// In the order of the tar.
    pub(crate) pending: Vec<PendingLink>,
    pub(crate) root_opaque: bool,
    pub(crate) content_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) names: u64,
}

/// Unpacks `reader` into the empty directory `root`, to the end, and verifies the digest of the
/// uncompressed bytes.
pub(crate) fn apply(
    root: &Path,
    reader: impl Read + Send,
    compression: Compression,
    expected: &DiffId,
    options: &UnpackOptions,
) -> Result<Applied, UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(root, flags, Mode::empty()).map_err(UnpackError::io("open", b"."))?;
    let mut writer = write::Writer::new(root, *options);
    let ((), actual) = pipeline::run(reader, compression, |chunks| {
        let mut tar = TarReader::new(chunks);
        while let Some(entry) = tar.next_entry().map_err(|error| read(error, compression))? {
            writer.entry(entry, &mut tar)?;
        }
        Ok(())
    })?;
    if actual != *expected {
        return Err(UnpackError::Digest {
            expected: *expected,
            actual,
        });
    }
    writer.finish()
}

fn read(error: ReadError, compression: Compression) -> UnpackError {
    match error {
        ReadError::Io(error) => UnpackError::Read(compression, error),
        ReadError::Tar(offset, source) => UnpackError::Tar { offset, source },
    }
}
