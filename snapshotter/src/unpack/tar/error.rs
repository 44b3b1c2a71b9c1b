//! What makes a tar unreadable.

/// What makes a tar unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The header's checksum is not that of its bytes.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A number that is neither octal nor base-256, or too large.
    #[error("the header's {0} is not a number that fits")]
    Number(&'static str),
    /// An entry of a kind that is no part of a file system.
    #[error("entries of type {:?} are not supported", char::from(*.0))]
    Kind(u8),
    /// A pax record that is not `length key=value\n`.
    #[error("a pax record is malformed")]
    Pax,
    /// A pax record whose value cannot be used.
    #[error("the pax record {0:?} has a bad value")]
    PaxValue(String),
    /// An extension header that is larger than [`super::MAX_EXTENSION`].
    #[error("an extension header has {0} bytes, too many")]
    ExtensionSize(u64),
    /// A sparse map whose parts overlap, leave the file, or do not add up.
    #[error("the sparse map is not valid")]
    Sparse,
    /// The archive ends within an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// Data after a block of zeros.
    #[error("a block of zeros is followed by another entry")]
    LoneZeroBlock,
    /// An extension header describes nothing.
    #[error("the archive ends after an extension header")]
    DanglingExtension,
}
