//! The blob as a plain tar.

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Whatever its first bytes say. Media types lie often enough.
    Detect,
    /// A plain tar.
    None,
    /// gzip, of one or more members (RFC 1952).
    Gzip,
    /// Zstandard, of one or more frames (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detect => "undetected",
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

const BUFFER: usize = 64 << 10;

/// Answers the compression and a reader of what is inside.
pub(super) fn decode<'a>(
    mut reader: impl Read + Send + 'a,
    compression: Compression,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut start = Vec::new();
    let mut found = compression;
    if compression == Compression::Detect {
        (&mut reader).take(4).read_to_end(&mut start)?;
        found = detect(&start);
    }
    let all = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(reader));
    Ok((
        found,
        match found {
            Compression::Gzip => Box::new(MultiGzDecoder::new(all)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(all)?),
            Compression::None | Compression::Detect => Box::new(all),
        },
    ))
}

fn detect(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one to skip that comes before (zstd:chunked has such).
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    }
}
