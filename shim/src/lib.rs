//! The per-container shim: creates one container, owns its stdio, records its
//! exit. A library beside the binary so that the parts can be tested apart.
//!
//! ```text
//! main ── argv, modes
//!   driver ── the loop: exits first, then requests          (serve)
//!     link        messages and descriptors over SOCK_SEQPACKET
//!     state       what is allowed when; pure
//!     create      libcontainer, in a forked worker
//!     exec        another process in the container; our own code
//!     io          pipes, pty, CRI log, attached clients
//!     reaper oom exit_record cgroup
//! ```

pub mod arguments;
pub mod bootstrap;
pub mod cgroup;
pub mod create;
pub mod driver;
pub mod error;
pub mod exec;
pub mod exit_record;
pub mod init;
pub mod io;
pub mod link;
pub mod oom;
pub mod pin;
pub mod reaper;
pub mod rootfs;
pub mod seccomp;
pub mod state;
pub mod sys;
