//! What every layer may name: ids, owner tasks, teardown, error chains.
//!
//! Nothing here knows a pod, a container or an image, and nothing here does
//! I/O beyond what its own purpose needs.

pub mod boot;
pub mod chain;
pub mod clock;
pub mod driver;
pub mod id;
pub mod readable;
pub mod tasks;
pub mod teardown;
