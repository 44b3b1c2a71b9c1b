//! Two threads: one reads, decompresses and hashes, the other writes files.
//!
//! Hashing is the largest cost of unpacking without SHA instructions, and both are about equal
//! with them. Buffers go round between the two, so memory is bounded and nothing is copied.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use ring::digest;

use super::decompress::{Compression, decode};
use super::error::UnpackError;
use crate::DiffId;
use crate::layer::array;

const CHUNK: usize = 128 << 10;
/// Chunks that may wait between the threads.
const DEPTH: usize = 4;

/// The consumer's end: uncompressed bytes as they come.
#[derive(Debug)]
pub(super) struct Chunks {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.current.len() {
            // The producer is gone at the end and after its error, which it keeps for `run`.
            let next = self.full.recv().unwrap_or_default();
            let used = std::mem::replace(&mut self.current, next);
            self.at = 0;
            // A producer that has ended needs no buffer back.
            drop(self.empty.send(used));
        }
        Ok(self.current.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.current.len());
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Reads to the end of `source` and answers the digest, or `None` if the consumer left before.
fn produce(
    mut source: Box<dyn Read + Send + '_>,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<Option<DiffId>> {
    let mut hash = digest::Context::new(&digest::SHA256);
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match source.read(room) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        if filled == 0 {
            return Ok(Some(DiffId::from_digest(array(&hash.finish()))));
        }
        hash.update(&buffer);
        if full.send(buffer).is_err() {
            return Ok(None);
        }
    }
}

/// Runs `consume` on the uncompressed bytes of `reader`, reads whatever it leaves, and answers
/// its result with the digest of all.
pub(super) fn run<T>(
    reader: impl Read + Send,
    compression: Compression,
    consume: impl FnOnce(&mut Chunks) -> Result<T, UnpackError>,
) -> Result<(T, DiffId), UnpackError> {
    let (full, full_out) = sync_channel(DEPTH);
    let (empty, empty_out) = channel();
    std::thread::scope(|scope| {
        let producer = std::thread::Builder::new().name("unpack-read".to_owned());
        let producer = producer.spawn_scoped(scope, move || {
            let (found, source) = decode(reader, compression)
                .map_err(|error| UnpackError::Read(compression, error))?;
            produce(source, &full, &empty_out).map_err(|error| UnpackError::Read(found, error))
        });
        let producer = producer.map_err(UnpackError::io("start a thread for", b"."))?;
        let mut chunks = Chunks {
            full: full_out,
            empty,
            current: Vec::new(),
            at: 0,
        };
        let result = consume(&mut chunks).and_then(|result| {
            io::copy(&mut chunks, &mut io::sink())
                .map_err(|error| UnpackError::Read(compression, error))?;
            Ok(result)
        });
        // Without a consumer the producer stops at its next chunk.
        drop(chunks);
        let produced = producer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where reading failed the tar only looks truncated.
        match (produced?, result?) {
            (Some(digest), result) => Ok((result, digest)),
            // Unreachable: only a consumer that failed leaves early, and its error came first.
            (None, _) => Err(UnpackError::Read(
                compression,
                io::ErrorKind::BrokenPipe.into(),
            )),
        }
    })
}
