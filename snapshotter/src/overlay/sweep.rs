//! Removing what an earlier run left.

use super::layout::Layout;
use crate::{SnapshotError, tree};

/// Removes staging directories of earlier instances and answers how many there were.
pub(super) fn sweep(layout: &Layout) -> Result<usize, SnapshotError> {
    let staging = &layout.config().staging;
    let mut removed = 0;
    let mut first = None;
    for entry in std::fs::read_dir(staging).map_err(SnapshotError::io("list", staging))? {
        let name = entry
            .map_err(SnapshotError::io("list", staging))?
            .file_name();
        if !name.to_str().is_some_and(|name| layout.is_leftover(name)) {
            continue;
        }
        match tree::remove(&staging.join(&name)) {
            Ok(()) => removed += 1,
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or(Ok(removed), Err)
}
