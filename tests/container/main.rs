//! Containers through the CRI: the daemon, its shims and the kernel. Each test
//! has a node and a daemon of its own and ends with the leak audit.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod exec;
mod life;
mod logs;
mod restart;
mod setup;
mod stop;
