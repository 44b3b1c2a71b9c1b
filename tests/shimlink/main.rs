//! The daemon's side of the shims against the real program. Needs root, and
//! the shim built (LONGSHORE_SHIM_BIN, or beside these tests).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod container;
mod life;
mod pod;
