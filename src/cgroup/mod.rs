//! Control groups (`cgroups(7)`): where they are mounted, what ours are called,
//! and making, filling, killing and removing them by plain file operations.
//!
//! ```text
//! mountinfo --Hierarchies--> where        cgroup_parent + id --CgroupPath--> which
//!                     \                       /
//!                      Hierarchies::create/attach/kill/remove
//! ```
//!
//! A [`CgroupPath`] is absolute *below each hierarchy*, so one value names the
//! same group on v1 (one directory a controller) and on v2 (one directory).
//! On a hybrid host the v1 controllers are used and the empty v2 tree is left
//! alone, as libcontainer does, so that both ends see the same group.
//!
//! Everything here blocks: call it from a thread that may.

mod driver;
mod error;
mod events;
mod hierarchies;
mod path;

pub use error::CgroupError;
pub use events::{MemoryEvents, parse_memory_events};
pub use hierarchies::{Hierarchies, Mode};
pub use path::{CgroupPath, container_path, parent_path};
