//! The processes that a pod may need: PID 1 of a shared PID namespace, and for
//! a moment one that makes a user namespace.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use crate::base::id::SandboxId;
use crate::base::readable::Readable;
use crate::netns::{Kind, NetnsError};

use super::model::UserNamespace;

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

/// Namespaces that were made and bound, or why not.
pub type Pinning<'a> = Pin<Box<dyn Future<Output = Result<(), InitError>> + Send + 'a>>;

/// Binds the namespaces of a process, given its directory `/proc/<pid>/ns`.
pub type Bind = Box<dyn FnOnce(&Path) -> Result<(), NetnsError> + Send>;

/// Starts the processes of pods. Implemented over the shim binary's modes `init`
/// and `pin`, and by tests.
pub trait PodInits: Debug + Send + Sync {
    /// Starts a process that is PID 1 of a new PID namespace, reaps whatever
    /// becomes its child, and survives the daemon. It is ended by killing its
    /// cgroup, so it is born there: `cgroup` are the `cgroup.procs` files that
    /// whoever forks it joins before. A daemon that dies at any moment then
    /// leaves none that the next one does not find.
    ///
    /// `userns`: the pinned user namespace that the new one belongs to; `None`:
    /// the node's.
    fn start<'a>(
        &'a self,
        id: &'a SandboxId,
        cgroup: Vec<PathBuf>,
        userns: Option<PathBuf>,
    ) -> Starting<'a>;

    /// Whether [`Self::pin_userns`] is there; without it pods with a user
    /// namespace are refused.
    fn has_user_namespaces(&self) -> bool {
        false
    }

    /// Makes a user namespace with this mapping and, owned by it, namespaces of
    /// the kinds `own`, and calls `bind` while a process has them.
    fn pin_userns<'a>(
        &'a self,
        _mapping: &'a UserNamespace,
        _own: Vec<Kind>,
        _bind: Bind,
    ) -> Pinning<'a> {
        Box::pin(async { Err("user namespaces are not supported".into()) })
    }
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
