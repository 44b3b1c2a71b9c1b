//! What every [`Snapshotter`](crate::Snapshotter) must do, and what tests build on.
//!
//! [`CHECKS`] is the contract. An implementation runs all of them, each on a store of its own:
//!
//! ```no_run
//! use longshore_snapshotter::contract::{Bench, CHECKS};
//! # fn store() -> Box<dyn longshore_snapshotter::Snapshotter> { unimplemented!() }
//! for (name, check) in CHECKS {
//!     let (store, home) = (store(), |_: &longshore_snapshotter::SnapshotKey| Ok(()));
//!     let bench = Bench { store: &*store, home: &home };
//!     if let Err(failure) = check(&bench) {
//!         panic!("{name}: {failure}");
//!     }
//! }
//! ```

mod bench;
mod checks;
pub mod corpus;
mod leaning;
mod tarball;

pub use bench::{Bench, Check, Failure};
pub use tarball::{Head, Tarball, pax_record, put, seal};

/// All checks with their names. They need the privilege to mount and to make devices.
pub const CHECKS: &[(&str, Check)] = &[
    (
        "a committed layer is shared",
        checks::committed_layers_are_shared,
    ),
    (
        "missing layers are named once",
        checks::missing_layers_are_named_once,
    ),
    (
        "a dropped layer leaves nothing",
        checks::dropped_layers_leave_nothing,
    ),
    (
        "a wrong digest is refused",
        checks::wrong_digests_are_refused,
    ),
    (
        "a layer that was removed is missing",
        checks::removed_layers_are_missing,
    ),
    (
        "upper layers hide lower ones",
        checks::upper_layers_hide_lower_ones,
    ),
    (
        "files are read as the mount shows them",
        checks::files_are_read_as_mounted,
    ),
    ("odd paths of an image", checks::odd_paths),
    (
        "a snapshot takes writes and layers don't",
        checks::snapshots_take_writes,
    ),
    ("a snapshot exists once", checks::snapshots_exist_once),
    ("views are read-only", checks::views_are_read_only),
    ("128 layers", checks::many_layers),
    ("the same layer twice", checks::repeated_layers),
    (
        "an implied directory is as below",
        leaning::implied_directories,
    ),
    (
        "a shared layer is fitted without a download",
        leaning::fitted_from_the_store,
    ),
    ("a hard link to a file below", leaning::hard_links_below),
    ("an opaque root", leaning::opaque_root),
    (
        "an implied directory in an opaque one",
        leaning::implied_in_opaque,
    ),
];
