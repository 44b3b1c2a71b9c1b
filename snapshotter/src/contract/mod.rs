//! What tests of this crate, and of those who use it, build on.

pub mod corpus;
mod tarball;

pub use tarball::{Head, Tarball, pax_record, put, seal};
