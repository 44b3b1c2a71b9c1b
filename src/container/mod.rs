//! Containers.

pub mod model;
pub mod spec;
