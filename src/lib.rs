//! longshore, the daemon: a CRI container runtime.
//!
//! The modules below are listed in layer order, the highest first. A module
//! may name modules of lower ranks only; `tests/layering.rs` holds it to that.
//!
//! ```text
//! rank 5   main app cli shutdown    may name anything
//! rank 4   service                  CRI types stop here
//! rank 3   container                names sandbox and image by their read handles
//! rank 2   sandbox
//! rank 1b  image
//! rank 1a  cni netns cgroup shimlink registry store    mechanisms, never each other
//! rank 0   base config
//! ```

pub mod app;
pub mod cli;
pub mod shutdown;

pub mod service;

pub mod container;

pub mod sandbox;

pub mod image;

pub mod cni;

pub mod netns;

pub mod cgroup;

pub mod registry;

pub mod shimlink;

pub mod store;

pub mod config;

pub mod base;
