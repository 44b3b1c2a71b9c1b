//! Sandboxes against the kernel and the standard CNI plugins, each test in a
//! node of its own. Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

mod life;
mod network;
mod recovery;
mod run;
mod setup;
