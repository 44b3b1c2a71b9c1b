//! Registries in a node: Debian's, and one that does what a test scripts.

mod debian;
mod http;
mod scripted;

pub use debian::{Format, Registry};
pub use http::{Request, Response, http_get};
pub use scripted::{Fault, Rule, ScriptedRegistry};

#[cfg(test)]
mod tests;
