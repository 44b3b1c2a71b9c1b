//! Reading tar: V7, ustar, pax and GNU archives as one stream of entries.
//!
//! [`parse_header`], [`parse_pax`] and the sparse maps are pure functions over bytes; any input is
//! either parsed or an error. [`TarReader`] puts them together over a stream and keeps no more
//! than one entry's description in memory, which is bounded ([`MAX_EXTENSION`]).
//!
//! Sources: POSIX.1-2017 `pax`, the GNU tar manual ("Basic Tar Format", "Storing Sparse Files").
//! Where those leave a choice the reading of Go's `archive/tar` is taken, for that is what images
//! were tested with: a link, device, fifo or directory has no content whatever its size field
//! says, and a single block of zeros that is followed by another is an error. Of a global pax
//! header only owner and time count, for anything else of it cannot be meant for every entry.

mod error;
mod header;
mod pax;
mod reader;
mod sparse;

pub use error::TarError;
pub use header::{BLOCK, Header, Kind, OldSparse, parse_header};
pub use pax::{PaxRecord, parse_pax};
pub use reader::{Entry, EntryKind, ReadError, TarReader};
pub use sparse::{parse_sparse_text, parse_sparse_values};

/// The parts of a sparse file that have content: offset and length.
pub type SparseMap = Vec<(u64, u64)>;

/// The largest description of one entry in bytes: a pax header, a long name, a sparse map.
pub const MAX_EXTENSION: u64 = 1 << 20;
