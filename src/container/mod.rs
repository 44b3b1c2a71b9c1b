//! Containers.

pub mod model;
