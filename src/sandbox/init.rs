//! The one process that a pod may need: PID 1 of a shared PID namespace.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;

use crate::base::id::SandboxId;
use crate::base::readable::Readable;

/// A running PID 1.
#[derive(Debug)]
pub struct PodInit {
    /// Its id as the daemon sees it.
    pub pid: i32,
    /// Readable once it has ended (`pidfd_open(2)`).
    pub pidfd: OwnedFd,
}

/// Whatever starting the process failed with.
pub type InitError = Box<dyn std::error::Error + Send + Sync>;

/// A started [`PodInit`], or why not.
pub type Starting<'a> = Pin<Box<dyn Future<Output = Result<PodInit, InitError>> + Send + 'a>>;

/// Starts the init processes of pods. Implemented by the shim binary's `init`
/// mode, and by tests.
pub trait PodInits: Debug + Send + Sync {
    /// Starts a process that is PID 1 of a new PID namespace, reaps whatever
    /// becomes its child, and ends on no signal but SIGKILL. It is ended by
    /// killing its cgroup, which the sandbox puts it into right after.
    ///
    /// `userns`: the pinned user namespace that the new one belongs to; `None`:
    /// the node's.
    fn start<'a>(&'a self, id: &'a SandboxId, userns: Option<PathBuf>) -> Starting<'a>;
}

/// Ends once the process has; never where there is none.
pub(super) async fn ended(init: Option<&Readable>) {
    match init {
        None => std::future::pending().await,
        Some(init) => {
            if let Err(error) = init.readable().await {
                tracing::debug!(%error, "pod init no longer watched");
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A pidfd of process `pid`; an error of kind NotFound when there is none.
pub(super) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|errno| {
        match errno {
            rustix::io::Errno::SRCH => io::ErrorKind::NotFound.into(),
            other => other.into(),
        }
    })
}

/// Whether the process has ended already.
pub(super) fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ended, PollTimeout::ZERO)? > 0)
}
