//! One 512-byte header block.

use super::{SparseMap, TarError};

/// The unit of a tar in bytes.
pub const BLOCK: usize = 512;

/// What a header introduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, also a contiguous one.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// GNU: a directory with a list of its files as content.
    DumpDirectory,
    /// A fifo.
    Fifo,
    /// pax records for the next entry.
    Pax,
    /// pax records for all further entries.
    PaxGlobal,
    /// GNU: the next entry's name.
    LongName,
    /// GNU: the next entry's link target.
    LongLink,
    /// GNU: a sparse file with its map in the header.
    Sparse,
    /// GNU: the volume's label, which is no file.
    VolumeLabel,
}

/// A header block as it stands, before extension headers are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What it introduces.
    pub kind: Kind,
    /// The name with its prefix.
    pub name: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Bytes of content in the archive.
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// What old GNU tar says of a sparse file.
    pub sparse: Option<OldSparse>,
}

/// A sparse file as old GNU tar describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldSparse {
    /// The map as far as the header holds it.
    pub map: SparseMap,
    /// The size of the file with its holes.
    pub real: u64,
    /// Blocks with more of the map follow.
    pub more: bool,
}

fn field(block: &[u8; BLOCK], at: usize, len: usize) -> &[u8] {
    block.get(at..at + len).unwrap_or_default()
}

/// Text up to a NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal, or in base-256 where the first bit is set.
fn number(field: &[u8], what: &'static str) -> Result<i64, TarError> {
    let bad = || TarError::Number(what);
    let Some((&first, rest)) = field.split_first() else {
        return Err(bad());
    };
    if first & 0x80 != 0 {
        // Two's complement in 7 bits and whole bytes.
        let start = if first & 0x40 != 0 {
            i128::from(first) - 0x100
        } else {
            i128::from(first & 0x3f)
        };
        let value = rest.iter().try_fold(start, |value, byte| {
            value
                .checked_mul(256)
                .map(|value| value + i128::from(*byte))
        });
        return value
            .and_then(|value| i64::try_from(value).ok())
            .ok_or_else(bad);
    }
    let digits = field
        .iter()
        .skip_while(|byte| matches!(byte, b' ' | 0))
        .take_while(|byte| !matches!(byte, b' ' | 0));
    digits.copied().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(bad),
        _ => Err(bad()),
    })
}

fn natural(field: &[u8], what: &'static str) -> Result<u64, TarError> {
    u64::try_from(number(field, what)?).map_err(|_| TarError::Number(what))
}

/// Sums of all bytes with the checksum field as spaces: unsigned, and signed as some old tars did.
fn checksums(block: &[u8; BLOCK]) -> (i64, i64) {
    let bytes = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => b' ',
        _ => *byte,
    });
    bytes.fold((0, 0), |(unsigned, signed), byte| {
        (
            unsigned + i64::from(byte),
            signed + i64::from(byte.cast_signed()),
        )
    })
}

/// A map of up to `entries` parts in the form of old GNU tar: pairs of 12-byte numbers.
pub(super) fn sparse_pairs(bytes: &[u8]) -> Result<SparseMap, TarError> {
    let mut map = Vec::new();
    for pair in bytes.chunks_exact(24) {
        let (offset, len) = pair.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        map.push((natural(offset, "sparse map")?, natural(len, "sparse map")?));
    }
    Ok(map)
}

/// Parses one header block. `None` is a block of zeros, of which two end an archive.
///
/// # Errors
/// [`TarError::Checksum`], [`TarError::Number`], [`TarError::Kind`].
pub fn parse_header(block: &[u8; BLOCK]) -> Result<Option<Header>, TarError> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum = number(field(block, 148, 8), "checksum")?;
    let (unsigned, signed) = checksums(block);
    if sum != unsigned && sum != signed {
        return Err(TarError::Checksum);
    }
    let magic = field(block, 257, 8);
    let posix = magic.starts_with(b"ustar\0");
    let gnu = magic == b"ustar  \0";
    let mut name = text(field(block, 0, 100)).to_vec();
    if posix {
        // star ends its header with its own name and has a shorter prefix.
        let star = field(block, 508, 4) == b"tar\0";
        let prefix = text(field(block, 345, if star { 131 } else { 155 }));
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    let kind = kind(field(block, 156, 1).first().copied().unwrap_or(0), &name)?;
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => (
            natural(field(block, 329, 8), "device number")?,
            natural(field(block, 337, 8), "device number")?,
        ),
        Kind::File
        | Kind::HardLink
        | Kind::Symlink
        | Kind::Directory
        | Kind::DumpDirectory
        | Kind::Fifo
        | Kind::Pax
        | Kind::PaxGlobal
        | Kind::LongName
        | Kind::LongLink
        | Kind::Sparse
        | Kind::VolumeLabel => (0, 0),
    };
    let sparse = if kind == Kind::Sparse && gnu {
        Some(OldSparse {
            map: sparse_pairs(field(block, 386, 96))?,
            real: natural(field(block, 483, 12), "real size")?,
            more: field(block, 482, 1) != [0],
        })
    } else {
        None
    };
    let mode = natural(field(block, 100, 8), "mode")? & 0o7777;
    Ok(Some(Header {
        kind,
        name,
        link: text(field(block, 157, 100)).to_vec(),
        mode: u32::try_from(mode).unwrap_or(0),
        uid: natural(field(block, 108, 8), "user id")?,
        gid: natural(field(block, 116, 8), "group id")?,
        size: natural(field(block, 124, 12), "size")?,
        mtime: number(field(block, 136, 12), "time")?,
        device,
        sparse,
    }))
}

fn kind(flag: u8, name: &[u8]) -> Result<Kind, TarError> {
    Ok(match flag {
        // V7 has no directories: it writes a slash.
        b'0' | 0 if name.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'D' => Kind::DumpDirectory,
        b'6' => Kind::Fifo,
        // 'X' is Solaris' early pax header.
        b'x' | b'X' => Kind::Pax,
        b'g' => Kind::PaxGlobal,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        b'S' => Kind::Sparse,
        b'V' => Kind::VolumeLabel,
        other => return Err(TarError::Kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some(-1),
            ),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"0x1f\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "x").ok(), value, "{field:?}");
        }
    }

    #[test]
    fn zeros_are_no_header_and_garbage_has_no_checksum() {
        assert_eq!(parse_header(&[0; BLOCK]), Ok(None));
        assert_eq!(parse_header(&[b' '; BLOCK]), Err(TarError::Checksum));
        assert_eq!(
            parse_header(&[b'a'; BLOCK]),
            Err(TarError::Number("checksum"))
        );
    }
}
