//! Where content comes from: a registry, or files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::ImageError;
use super::plan::Blob;
use super::verify;
use crate::base::id::Digest;
use crate::registry::{BlobStream, Manifest, Repository};

/// Largest configuration or manifest that is read.
const MAX_DOCUMENT: usize = 8 << 20;
/// Chunks that may wait for the unpacker; a chunk is what one read of the
/// connection gave, 16 KiB or so.
const CHUNKS: usize = 64;

/// Content by digest.
#[derive(Debug)]
pub(super) enum Source {
    /// A repository of a registry.
    Registry(Repository),
    /// The `blobs` directory of an OCI image layout.
    Layout(PathBuf),
    /// Files that were picked out of an archive.
    Files(HashMap<Digest, PathBuf>),
}

impl Source {
    /// A manifest or an index that is known by its descriptor, verified.
    pub(super) async fn manifest(&self, blob: &Blob) -> Result<Manifest, ImageError> {
        let manifest = match self {
            Self::Registry(repository) => repository.manifest(blob.digest.as_str()).await?,
            Self::Layout(_) | Self::Files(_) => Manifest {
                bytes: self.read(&blob.digest)?,
                media_type: None,
                digest: None,
            },
        };
        verify::bytes(&format!("manifest {}", blob.digest), blob, &manifest.bytes)?;
        Ok(manifest)
    }

    /// A blob that is held in memory, verified. `what` names it in errors.
    pub(super) async fn document(&self, what: &str, blob: &Blob) -> Result<Bytes, ImageError> {
        let bytes = match self {
            Self::Registry(repository) => {
                let limit =
                    usize::try_from(blob.size).map_or(MAX_DOCUMENT, |n| n.min(MAX_DOCUMENT));
                repository.small_blob(blob.digest.as_str(), limit).await?
            }
            Self::Layout(_) | Self::Files(_) => self.read(&blob.digest)?,
        };
        verify::bytes(&format!("{what} {}", blob.digest), blob, &bytes)?;
        Ok(bytes)
    }

    /// A layer's blob as a stream, and what feeds it meanwhile.
    pub(super) async fn open(&self, digest: &Digest) -> Result<(LayerReader, Feed), ImageError> {
        match self {
            Self::Registry(repository) => {
                let stream = repository.blob(digest.as_str()).await?;
                let (sender, receiver) = mpsc::channel(CHUNKS);
                let reader = LayerReader::Chunks(ChunkReader {
                    receiver,
                    current: Bytes::new(),
                });
                Ok((reader, Feed(Some((stream, sender)))))
            }
            Self::Layout(_) | Self::Files(_) => {
                let path = self.path(digest)?;
                let file = File::open(&path).map_err(ImageError::io("open", &path))?;
                Ok((LayerReader::File(file), Feed(None)))
            }
        }
    }

    fn path(&self, digest: &Digest) -> Result<PathBuf, ImageError> {
        let missing = || ImageError::Archive {
            path: PathBuf::from("blobs/sha256").join(digest.hex()),
            reason: "the archive doesn't hold it".to_owned(),
        };
        match self {
            Self::Layout(blobs) => Ok(blobs.join("sha256").join(digest.hex())),
            Self::Files(files) => files.get(digest).cloned().ok_or_else(missing),
            Self::Registry(_) => Err(missing()),
        }
    }

    fn read(&self, digest: &Digest) -> Result<Bytes, ImageError> {
        let path = self.path(digest)?;
        let failed = |source| ImageError::io("read", &path)(source);
        let mut bytes = Vec::new();
        let limit = MAX_DOCUMENT as u64 + 1;
        let file = File::open(&path).map_err(failed)?;
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 == limit {
            return Err(ImageError::Archive {
                path,
                reason: format!("a document of more than {MAX_DOCUMENT} bytes"),
            });
        }
        Ok(bytes.into())
    }
}

/// A layer's blob, for a thread that may block.
#[derive(Debug)]
pub(super) enum LayerReader {
    Chunks(ChunkReader),
    File(File),
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Chunks(chunks) => chunks.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

/// The blocking end of a download. The sender's going away looks like the end
/// of the blob; its length then tells that it isn't.
#[derive(Debug)]
pub(super) struct ChunkReader {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buffer.len());
        if let Some(part) = buffer.get_mut(..n) {
            self.current.copy_to_slice(part);
        }
        Ok(n)
    }
}

/// Moves a download to its reader.
#[derive(Debug)]
pub(super) struct Feed(Option<(BlobStream, mpsc::Sender<Bytes>)>);

impl Feed {
    /// Runs until the blob's end, or until the reader has gone.
    pub(super) async fn run(self) -> Result<(), ImageError> {
        let Some((mut stream, sender)) = self.0 else {
            return Ok(());
        };
        while let Some(chunk) = stream.chunk().await? {
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
