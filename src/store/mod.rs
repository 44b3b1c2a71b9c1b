//! The file system is the database: one versioned JSON record per object.
//!
//! ```text
//! <root>/<id>/record.json        the record
//! <root>/<id>/...                whatever else the object keeps on disk
//! <root>/.quarantine/<id>.<n>    an object whose record didn't parse
//! ```
//!
//! A record is replaced by rename, so a reader sees the old one or the new
//! one. Whether it is synced is the caller's choice: what can be rebuilt after
//! a power loss is not ([`Durability::Rename`]), what must never be lost is
//! ([`Durability::Synced`]).

mod atomic;
mod error;
mod records;

pub use atomic::{Durability, sync_dir, write_file};
pub use error::StoreError;
pub use records::{Loaded, Record, Records};
