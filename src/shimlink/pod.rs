//! The shim's modes that serve a pod: `init` (PID 1 of a shared PID
//! namespace) and `pin` (namespaces with a user namespace).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::process::Child;

use super::error::ShimError;
use super::socket::Socket;
use super::{Shims, wire};

/// How long a mode may take for a step. Usual is 1 ms.
const LIMIT: Duration = Duration::from_secs(30);
const INIT: &str = "init";
const PIN: &str = "pin";

/// What PID 1 of a pod joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInitSpec {
    /// Network namespace by path.
    pub net: Option<PathBuf>,
    /// IPC namespace by path.
    pub ipc: Option<PathBuf>,
    /// UTS namespace by path.
    pub uts: Option<PathBuf>,
    /// User namespace by path.
    pub user: Option<PathBuf>,
    /// `cgroup.procs` files of the pod.
    pub cgroup: Vec<PathBuf>,
}

/// PID 1 of a pod. It survives the daemon and ends on SIGTERM or SIGKILL.
#[derive(Debug)]
pub struct PodInit {
    /// In the daemon's PID namespace.
    pub pid: i32,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
}

/// One line of a uid_map or gid_map, by user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// Which namespaces to make inside a new user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinSpec {
    /// Users.
    pub uids: Vec<IdMap>,
    /// Groups.
    pub gids: Vec<IdMap>,
    /// A network namespace.
    pub net: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
}

/// A mode that runs, and the connection to it.
#[derive(Debug)]
struct Running {
    mode: &'static str,
    child: Child,
    socket: Socket,
}

impl Running {
    fn fail(&self, what: &str, source: impl Into<io::Error>) -> ShimError {
        ShimError::system(format!("{what} longshore-shim {}", self.mode), source)
    }

    /// The next message. The byte `E` begins a failure: an errno, then the step.
    async fn hear(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), ShimError> {
        let mut buffer = vec![0; 4096];
        let receive = self
            .socket
            .read(|socket| wire::receive_bytes(socket, &mut buffer));
        let (length, fds) = tokio::time::timeout(LIMIT, receive)
            .await
            .map_err(|_| ShimError::Slow {
                mode: self.mode,
                limit: LIMIT,
            })?
            .map_err(|e| self.fail("hear from", e))?;
        buffer.truncate(length);
        match buffer.as_slice() {
            [] => Err(self.failure("ended without a word".to_owned(), 0)),
            [b'E', e0, e1, e2, e3, step @ ..] => {
                let errno = i32::from_ne_bytes([*e0, *e1, *e2, *e3]);
                let step = String::from_utf8_lossy(step);
                let cause = io::Error::from_raw_os_error(errno);
                Err(self.failure(format!("{step}: {cause}"), errno))
            }
            _ => Ok((buffer, fds)),
        }
    }

    async fn expect(&self, word: u8) -> Result<(), ShimError> {
        match self.hear().await?.0.as_slice() {
            [byte] if *byte == word => Ok(()),
            _ => Err(ShimError::Malformed(
                "unexpected word of longshore-shim pin",
            )),
        }
    }

    fn tell(&self, word: u8) -> Result<(), ShimError> {
        wire::send_bytes(self.socket.as_fd(), &[word], &[]).map_err(|e| self.fail("tell", e))
    }

    fn failure(&self, message: String, errno: i32) -> ShimError {
        ShimError::Mode {
            mode: self.mode,
            message,
            errno,
        }
    }
}

impl Shims {
    fn run(
        &self,
        mode: &'static str,
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Running, ShimError> {
        let fail = |e: io::Error| ShimError::system(format!("start longshore-shim {mode}"), e);
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| fail(e.into()))?;
        let mut command = self.binary.command(Some(&theirs));
        command.arg(mode).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        Ok(Running {
            mode,
            child,
            socket: Socket::new(ours).map_err(fail)?,
        })
    }

    /// Starts PID 1 of a pod whose containers share a PID namespace.
    ///
    /// # Errors
    /// The step that failed; nothing is then left.
    pub async fn pod_init(&self, spec: &PodInitSpec) -> Result<PodInit, ShimError> {
        let named = [
            ("--net", &spec.net),
            ("--ipc", &spec.ipc),
            ("--uts", &spec.uts),
            ("--user", &spec.user),
        ];
        let joined = named
            .into_iter()
            .filter_map(|(name, path)| Some((name, path.as_ref()?)));
        let cgroups = spec.cgroup.iter().map(|procs| ("--cgroup", procs));
        let arguments = joined
            .chain(cgroups)
            .flat_map(|(name, path)| [name.into(), path.into()]);
        let mut running = self.run(INIT, arguments)?;
        let (message, fds) = running.hear().await?;
        let pid = message.try_into().map(i32::from_ne_bytes);
        let (Ok(pid), Some(pidfd)) = (pid, fds.into_iter().next()) else {
            return Err(ShimError::Malformed("longshore-shim init named no process"));
        };
        // The one that was started ends now; PID 1 is its child and goes on.
        let ended = tokio::time::timeout(LIMIT, running.child.wait()).await;
        ended
            .map_err(|_| ShimError::Slow {
                mode: INIT,
                limit: LIMIT,
            })?
            .map_err(|e| running.fail("wait for", e))?;
        Ok(PodInit { pid, pidfd })
    }

    /// Makes a user namespace and others owned by it, and calls `bind` with
    /// the directory `/proc/<pid>/ns` of a process that has them, to bind-mount
    /// what is to stay. `bind` runs on a thread that may block.
    ///
    /// # Errors
    /// The step that failed, or what `bind` says.
    pub async fn pin_userns<T, E>(
        &self,
        spec: &PinSpec,
        bind: impl FnOnce(&Path) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, ShimError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let wanted = [
            ("--net", spec.net),
            ("--ipc", spec.ipc),
            ("--uts", spec.uts),
        ];
        let arguments = wanted.into_iter().filter(|(_, wanted)| *wanted);
        let mut running = self.run(PIN, arguments.map(|(name, _)| name.into()))?;
        let pid = running
            .child
            .id()
            .ok_or_else(|| running.failure("ended at once".into(), 0))?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        running.expect(b'U').await?;
        for (file, map) in [("uid_map", &spec.uids), ("gid_map", &spec.gids)] {
            let file = process.join(file);
            // One write, as the kernel wants it.
            std::fs::write(&file, render(map))
                .map_err(|e| ShimError::system(format!("write {}", file.display()), e))?;
        }
        running.tell(b'M')?;
        running.expect(b'N').await?;
        let namespaces = process.join("ns");
        let bound = self.tasks.spawn_blocking(move || bind(&namespaces)).await;
        let bound = bound.map_err(|e| running.fail("bind namespaces of", io::Error::other(e)))?;
        running.tell(b'X')?;
        let ended = tokio::time::timeout(LIMIT, running.child.wait()).await;
        ended
            .map_err(|_| ShimError::Slow {
                mode: PIN,
                limit: LIMIT,
            })?
            .map_err(|e| running.fail("wait for", e))?;
        Ok(bound)
    }
}

fn render(map: &[IdMap]) -> String {
    map.iter()
        .map(|m| format!("{} {} {}\n", m.inside, m.outside, m.length))
        .collect()
}
