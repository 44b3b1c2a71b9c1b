//! Shims that live already: after a restart of the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Shims;
use super::client::Shim;
use super::error::ShimError;

/// How long to wait for a place among the connections not yet accepted.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Connects. A busy shim (its backlog is full) is waited for.
pub(super) async fn open(address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match connect(&socket, address) {
            Ok(()) => return Ok(socket),
            Err(Errno::AGAIN) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl Shims {
    /// Connects to the shim of that id. None: there is none; a socket that
    /// nobody listens on any more is removed.
    ///
    /// # Errors
    /// What failed. The shim may live.
    pub async fn connect(&self, id: &str) -> Result<Option<Shim>, ShimError> {
        let socket = match open(&self.address(id)?).await {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.remove(id)?;
                return Ok(None);
            }
            Err(error) => {
                return Err(ShimError::system(format!("connect to shim of {id}"), error));
            }
        };
        let shim = Shim::new(id.to_owned(), socket, &self.tasks)?;
        match identify(&shim).await {
            Ok(()) => Ok(Some(shim)),
            // It ended between the connection and the answer.
            Err(ShimError::Lost { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ids of the shims that have a socket here, dead or alive, sorted.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(&self) -> Result<Vec<String>, ShimError> {
        let fail = |e: Errno| ShimError::system("read directory of shim sockets", e);
        let directory = rustix::fs::Dir::read_from(&self.sockets).map_err(fail)?;
        let mut ids = Vec::new();
        for entry in directory {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            // "." and ".." are no ids; neither is what somebody else put here.
            if self.address(name).is_ok() {
                ids.push(name.to_owned());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes the socket of a shim that is gone. One that is not there is none to remove.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn remove(&self, id: &str) -> Result<(), ShimError> {
        // An id that can't name a shim must not name another file.
        self.address(id)?;
        match unlinkat(&self.sockets, id, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(ShimError::system(
                format!("remove shim socket of {id}"),
                errno,
            )),
        }
    }
}

impl Shims {
    /// Kills the shim of that id without its help: one that is stopped or
    /// hangs accepts a connection and never says who it is. Yields a pidfd of
    /// each process that was killed; none where there is none.
    ///
    /// # Errors
    /// The shims' cgroup can't be read, or a process not be killed.
    pub async fn kill(&self, id: &str) -> Result<Vec<OwnedFd>, ShimError> {
        let (groups, owned) = (self.cgroup.clone(), id.to_owned());
        let killed = self
            .tasks
            .spawn_blocking(move || kill_by_id(&groups, &owned))
            .await
            .unwrap_or_else(|died| Err(io::Error::other(died)));
        killed.map_err(|e| ShimError::system(format!("kill shim of {id}"), e))
    }
}

/// The shims' cgroup says which processes may be the one, the command line
/// which it is. The pidfd comes first: an id that was given out again meanwhile
/// is then not the process that the signal goes to.
fn kill_by_id(groups: &[PathBuf], id: &str) -> io::Result<Vec<OwnedFd>> {
    let Some(group) = groups.first() else {
        return Ok(Vec::new());
    };
    let mut killed = Vec::new();
    for line in std::fs::read_to_string(group)?.lines() {
        let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => continue,
            other => other?,
        };
        if !serves(pid, id) {
            continue;
        }
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) => killed.push(pidfd),
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(killed)
}

/// Whether the process was started as `serve --id <id>`.
fn serves(pid: Pid, id: &str) -> bool {
    let path = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("cmdline");
    // One that has ended meanwhile serves nothing.
    let line = std::fs::read(path).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words
        .windows(3)
        .any(|words| *words == [b"serve".as_slice(), b"--id", id.as_bytes()])
}

/// Learns the shim's pidfd: by the pid that it names, which is its own as
/// long as it goes on answering.
async fn identify(shim: &Shim) -> Result<(), ShimError> {
    let pid = shim.state().await?.reply.shim_pid;
    let Some(pid) = Pid::from_raw(pid) else {
        return Err(shim.link.mismatch("state"));
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| ShimError::system(format!("pidfd_open of shim of {}", shim.id()), e))?;
    if shim.state().await?.reply.shim_pid == pid.as_raw_nonzero().get() {
        shim.link.set_pidfd(pidfd);
    }
    Ok(())
}
