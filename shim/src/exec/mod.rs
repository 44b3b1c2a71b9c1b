//! Another process in the container, equal to init in all but its arguments.
//!
//! Our own code, for libcontainer's tenant builder drops the seccomp filter
//! and does not join the user namespace. [`Context::capture`] takes what init
//! is made of once, right after create; [`spawn`] starts a process from it.
//!
//! ```text
//! shim ──fork──▶ outer child (the shim's PID namespace)
//!                cgroup, limits, ONE setns, ids, groups, capabilities, label
//!                └─clone(CLONE_PARENT)──▶ the process (the container's PID namespace)
//!                                         session, tty, seccomp filter, execve
//! ```
//!
//! The container sees only the second process, which has by then no more
//! privileges than the container's own (plus CAP_SYS_ADMIN for the moment of
//! loading the filter where no_new_privs is off): a container that may ptrace
//! finds nothing worth taking. Both are children of the shim, which reaps.
//!
//! Nothing between fork and execve allocates: the shim has a second thread,
//! which may hold the allocator's lock at the moment of the fork.

mod cgroups;
mod context;
mod credentials;
mod enter;
mod error;
mod home;
mod plan;
mod spawn;
mod terminal;

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;

pub use context::Context;
pub use credentials::{CapabilitySets, bit as capability_bit};
pub use error::{ExecError, Step};
pub use spawn::spawn;
pub(crate) use terminal::open_slave;

/// What [`Context::capture`] reads. All of it as create made it.
#[derive(Debug)]
pub struct Capture<'a> {
    /// Init's process id in the shim's PID namespace.
    pub pid: i32,
    /// A pidfd of init.
    pub pidfd: OwnedFd,
    /// `process` of the spec that create used: the capabilities and
    /// no_new_privs that the container is meant to have, not those that
    /// libcontainer was given.
    pub process: &'a Process,
    /// Compiled filter: an array of `struct sock_filter`. Empty: none.
    pub seccomp_filter: &'a [u8],
    /// Flags of seccomp(2) `SECCOMP_SET_MODE_FILTER`.
    pub seccomp_flags: u32,
    /// Name of the session keyring that create joined, if it did.
    pub keyring: Option<&'a str>,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// argv. Looked up in the container's PATH, inside the container, where
    /// the first has no slash.
    pub args: Vec<Vec<u8>>,
    /// On a terminal of its own, in the container's devpts.
    pub tty: bool,
}

/// The process' own ends of its stdio; what is None is /dev/null. All None
/// with a tty.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// What the process reads.
    pub stdin: Option<OwnedFd>,
    /// Where it writes.
    pub stdout: Option<OwnedFd>,
    /// Where it complains.
    pub stderr: Option<OwnedFd>,
}

/// A process that has been started: its execve succeeded.
#[derive(Debug)]
pub struct Spawned {
    /// In the shim's PID namespace. A child of the shim, for its reaper.
    pub pid: i32,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// With a tty.
    pub pty_master: Option<OwnedFd>,
}
