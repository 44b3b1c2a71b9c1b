//! The daemon's side of the shims: start one, find one again, ask it.
//!
//! ```text
//!  Shims ── spawn(id) ──▶ longshore-shim serve    <sockets>/<id>, fd 3
//!    │  └─ connect(id) ──▶ one that lived through the daemon's restart
//!    │
//!  Shim ── create start exec kill ... ──▶ answers by number, in any order
//!    │ ◀── events: exec ends to who asked, the exit to a watch
//!    └─ exec_sync: a command with its output collected
//! ```
//!
//! A shim survives the daemon: nothing here kills one. All run from one sealed
//! memfd. What comes up comes by futures and a watch; nothing here knows what
//! a container is beyond its id.

mod binary;
mod client;
mod connect;
mod error;
mod exec_sync;
mod inherit;
mod pod;
mod requests;
mod seccomp;
mod socket;
mod spawn;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wire;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};

/// Messages that are handed through as they are.
pub use longshore_proto::shim::v1::{
    Create, Exited, Rootfs, StateReply, Stdio, error::Kind as RefusedKind,
    state_reply::Status as StateStatus,
};

pub use client::{ExecStatus, Shim, ShimExit};
pub use error::{Refused, ShimError};
pub use exec_sync::{ExecOutput, ExecSyncError, exec_sync};
pub use pod::{IdMap, PinSpec, PodInit, PodInitSpec};
pub use requests::{Created, Exec, ExecExit, ExecSpec, State, Streams};
pub use seccomp::SeccompFilter;

use crate::base::tasks::Tasks;

/// Bytes of each stream that ExecSync keeps (CRI: 16 MiB).
pub const EXEC_SYNC_CAP: usize = 16 << 20;

/// What shims need.
#[derive(Debug, Clone)]
pub struct ShimsConfig {
    /// The program `longshore-shim`.
    pub binary: PathBuf,
    /// Directory of their sockets, which exists. Of this instance alone.
    pub sockets: PathBuf,
    /// `cgroup.procs` files of the cgroup that all shims share.
    pub cgroup: Vec<PathBuf>,
    /// Owner of the tasks that read from shims and reap them.
    pub tasks: Tasks,
}

/// All shims of one daemon.
#[derive(Debug)]
pub struct Shims {
    binary: binary::Binary,
    sockets: OwnedFd,
    cgroup: Vec<PathBuf>,
    tasks: Tasks,
    filters: Mutex<seccomp::Filters>,
}

impl Shims {
    /// Copies the program into memory and opens the sockets' directory.
    ///
    /// # Errors
    /// The file that can't be read or the directory that can't be opened.
    pub fn new(config: ShimsConfig) -> Result<Self, ShimError> {
        let ShimsConfig {
            binary,
            sockets,
            cgroup,
            tasks,
        } = config;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&sockets, flags, Mode::empty())
            .map_err(|e| ShimError::system(format!("open {}", sockets.display()), e))?;
        Ok(Self {
            binary: binary::Binary::load(&binary)?,
            sockets: directory,
            cgroup,
            tasks,
            filters: Mutex::default(),
        })
    }
}
