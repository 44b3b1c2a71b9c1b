//! A new shim: its socket, its process, its connection.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::client::Shim;
use super::error::ShimError;
use super::{Shims, connect};

/// Connections that wait for the shim to accept them.
const BACKLOG: i32 = 16;

impl Shims {
    /// Starts a shim and connects to it. It survives the daemon; should it
    /// end, it is reaped.
    ///
    /// # Errors
    /// A shim with this id lives already, or the step that failed. Nothing is
    /// then left.
    pub async fn spawn(&self, id: &str) -> Result<Shim, ShimError> {
        let listener = self.listen(id).await?;
        let started = self.start(id, &listener).await;
        drop(listener);
        if started.is_err() {
            // It is ours: nobody else could bind the name.
            self.remove(id).ok();
        }
        started
    }

    async fn listen(&self, id: &str) -> Result<OwnedFd, ShimError> {
        let fail = |call: &str| {
            let operation = format!("{call} shim socket of {id}");
            move |source: rustix::io::Errno| ShimError::system(operation, source)
        };
        let address = self.address(id)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(fail("make"))?;
        match bind(&socket, &address) {
            Err(rustix::io::Errno::ADDRINUSE) => {
                // One that nobody listens on is a dead shim's.
                if self.connect(id).await?.is_some() {
                    return Err(ShimError::Exists(id.to_owned()));
                }
                bind(&socket, &address).map_err(fail("bind"))?;
            }
            bound => bound.map_err(fail("bind"))?,
        }
        listen(&socket, BACKLOG).map_err(fail("listen on"))?;
        Ok(socket)
    }

    async fn start(&self, id: &str, listener: &OwnedFd) -> Result<Shim, ShimError> {
        let mut command = self.binary.command(Some(listener));
        command.args(["serve", "--id", id]);
        for procs in &self.cgroup {
            command.arg("--cgroup").arg(procs);
        }
        // stderr goes where the daemon's does, for what fails before the shim
        // can answer.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|e| ShimError::system(format!("start shim of {id}"), e))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let pidfd = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| ShimError::system(format!("pidfd_open of shim of {id}"), e))?;
        let (stopping, owned) = (self.tasks.stopping(), id.to_owned());
        self.tasks.spawn(async move {
            tokio::select! {
                // Then it is for whoever reaps orphans.
                () = stopping.cancelled() => {}
                status = child.wait() => match status {
                    Ok(status) if status.success() => {}
                    status => tracing::warn!(container = owned, ?status, "shim ended"),
                },
            }
        });
        let socket = connect::open(&self.address(id)?)
            .await
            .map_err(|e| ShimError::system(format!("connect to shim of {id}"), e))?;
        let shim = Shim::new(id.to_owned(), socket, &self.tasks)?;
        shim.link.set_pidfd(pidfd);
        Ok(shim)
    }

    /// The socket's address, short however long the directory's path is.
    pub(super) fn address(&self, id: &str) -> Result<SocketAddrUnix, ShimError> {
        let plain = !id.is_empty()
            && id.len() <= 64
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !id.starts_with('.');
        if !plain {
            return Err(ShimError::BadId(id.to_owned()));
        }
        let directory = Path::new("/proc/self/fd").join(self.sockets.as_raw_fd().to_string());
        SocketAddrUnix::new(directory.join(id))
            .map_err(|e| ShimError::system(format!("address of shim of {id}"), e))
    }
}
