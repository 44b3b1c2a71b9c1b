//! Content is what its digest says, or an error.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};

use super::ImageError;
use super::plan::Blob;
use crate::base::id::Digest;

/// Checks a document that is held in memory.
///
/// # Errors
/// [`ImageError::SizeMismatch`], [`ImageError::DigestMismatch`].
pub(super) fn bytes(what: &str, blob: &Blob, bytes: &[u8]) -> Result<(), ImageError> {
    let mut reader = Verified::new(bytes, what.to_owned(), blob.clone());
    reader.finish()
}

/// Counts and hashes what is read through it, and reads no more than the
/// descriptor allows.
pub(super) struct Verified<R> {
    inner: R,
    what: String,
    blob: Blob,
    hash: Context,
    count: u64,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(inner: R, what: String, blob: Blob) -> Self {
        Self {
            inner,
            what,
            blob,
            hash: Context::new(&SHA256),
            count: 0,
        }
    }

    /// Reads what is left and tells whether the whole is what was asked for.
    ///
    /// # Errors
    /// [`ImageError::SizeMismatch`], [`ImageError::DigestMismatch`];
    /// [`ImageError::Io`] when the source fails.
    pub(super) fn finish(&mut self) -> Result<(), ImageError> {
        let mut rest = vec![0; 64 << 10];
        while self.count <= self.blob.size {
            match self.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if self.count > self.blob.size => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::io("read", &self.what)(error)),
            }
        }
        if self.count != self.blob.size {
            return Err(ImageError::SizeMismatch {
                what: self.what.clone(),
                expected: self.blob.size,
                actual: self.count,
            });
        }
        let actual = Digest::from_sha256(self.hash.clone().finish().as_ref());
        if actual == self.blob.digest {
            return Ok(());
        }
        Err(ImageError::DigestMismatch {
            what: self.what.clone(),
            expected: self.blob.digest.clone(),
            actual,
        })
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count += n as u64;
        if self.count > self.blob.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes than its descriptor says",
            ));
        }
        self.hash.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(content: &[u8]) -> Blob {
        Blob {
            digest: Digest::of(content),
            size: content.len() as u64,
        }
    }

    #[test]
    fn tells_lies_from_truth() {
        let truth = blob(b"content");
        assert!(bytes("x", &truth, b"content").is_ok());
        assert!(bytes("x", &blob(b""), b"").is_ok());
        assert!(matches!(
            bytes("x", &truth, b"Content"),
            Err(ImageError::DigestMismatch { .. })
        ));
        for wrong in [&b"conten"[..], b"content!", b""] {
            let error = bytes("x", &truth, wrong).unwrap_err();
            assert!(
                matches!(error, ImageError::SizeMismatch { expected: 7, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn an_endless_source_is_cut_off() {
        let mut reader = Verified::new(io::repeat(0), "x".into(), blob(b"abc"));
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
        assert!(matches!(
            reader.finish(),
            Err(ImageError::SizeMismatch { expected: 3, .. })
        ));
    }

    #[test]
    fn what_was_read_before_counts() {
        let mut reader = Verified::new(&b"content"[..], "x".into(), blob(b"content"));
        let mut some = [0; 3];
        reader.read_exact(&mut some).unwrap();
        reader.finish().unwrap();
    }
}
