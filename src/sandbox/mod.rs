//! Pod sandboxes.

pub mod model;
