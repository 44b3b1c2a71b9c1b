//! Creating the container, and taking back what create did.
//!
//! ```text
//!   shim ── fork ──> worker: mounts, libcontainer ──> INTER ──> INIT (waits)
//!    ^                  │ one reply, then it ends          │
//!    └──────────────────┘   INIT is a child of the shim ───┘
//! ```
//!
//! libcontainer clones and then allocates in the child, so its caller must
//! have one thread; and it changes its caller. Hence the worker, forked before
//! the log thread exists. A worker or shim that is killed midway leaves
//! orphans, so [`undo`] goes by cgroup and by the names of the request.
//!
//! This directory is the only one that names libcontainer.

mod error;
mod executor;
mod normalise;
mod stage;
mod worker;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use longshore_proto::shim::v1;
use oci_spec::runtime::{Process, Spec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

pub use error::{CreateError, Failure};
pub use executor::EXIT_NOT_EXECUTABLE;

use crate::cgroup::Cgroup;
use crate::io::ChildEnds;
use crate::sys;
use worker::Reply;

/// Longest log of a failed create that goes into its message, in bytes.
const LOG_MAX: usize = 4096;

/// The names under which a container leaves traces: all that it takes to
/// start it and to take it back, and all that is kept of a request.
#[derive(Debug, Clone)]
pub struct Site {
    id: String,
    stage_dir: PathBuf,
    state_dir: PathBuf,
    cgroup: Cgroup,
}

/// A `Create` that can be carried out.
#[derive(Debug)]
pub struct Request {
    site: Site,
    spec: Spec,
    rootfs: v1::Rootfs,
    filter: Vec<libc::sock_filter>,
    filter_flags: u32,
    cgroup_writable: bool,
}

impl Request {
    /// Checks a request. Nothing is done yet.
    ///
    /// # Errors
    /// What is missing or wrong in it.
    pub fn parse(create: &v1::Create) -> Result<Request, CreateError> {
        let invalid = |text: &str| CreateError::Invalid(text.to_owned());
        let spec: Spec = serde_json::from_slice(&create.spec).map_err(CreateError::Spec)?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| invalid("spec without linux"))?;
        spec.process()
            .as_ref()
            .ok_or_else(|| invalid("spec without process"))?;
        let path = linux.cgroups_path().as_deref().unwrap_or(Path::new(""));
        let cgroup = Cgroup::new(path).map_err(CreateError::Cgroup)?;
        if let Some(hooks) = spec.hooks() {
            let some = |hooks: &Option<Vec<_>>| hooks.as_ref().is_some_and(|list| !list.is_empty());
            if some(hooks.poststart()) || some(hooks.poststop()) {
                return Err(invalid("poststart and poststop hooks are not supported"));
            }
        }
        for (name, dir) in [
            ("stage_dir", &create.stage_dir),
            ("state_dir", &create.state_dir),
        ] {
            if !Path::new(dir).is_absolute() {
                return Err(CreateError::Invalid(format!("{name} is not absolute")));
            }
        }
        if create.id.is_empty() || create.id.contains(['/', '\0']) || create.id.starts_with('.') {
            return Err(invalid("container id is no file name"));
        }
        Ok(Request {
            site: Site {
                id: create.id.clone(),
                stage_dir: PathBuf::from(&create.stage_dir),
                state_dir: PathBuf::from(&create.state_dir),
                cgroup,
            },
            rootfs: create.rootfs.clone().ok_or_else(|| invalid("no rootfs"))?,
            filter: filter(&create.seccomp_filter)?,
            filter_flags: create.seccomp_flags,
            cgroup_writable: create.cgroup_writable,
            spec,
        })
    }

    /// User and group that own the container's stdio, as the host sees them.
    #[must_use]
    pub fn stdio_owner(&self) -> (u32, u32) {
        let user = self.spec.process().as_ref().map(Process::user);
        let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
        normalise::host_owner(&self.spec, uid, gid)
    }

    /// The names in it.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }
}

impl Site {
    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Makes the directories that create needs beside libcontainer's own, and
    /// returns the one for the console socket.
    ///
    /// # Errors
    /// A directory that can't be made.
    pub fn make_dirs(&self) -> Result<PathBuf, CreateError> {
        let console = self.console_dir();
        fs::create_dir_all(&console).map_err(|source| {
            CreateError::system(format!("create directory {}", console.display()), source)
        })?;
        Ok(console)
    }

    fn console_dir(&self) -> PathBuf {
        self.state_dir.join(format!("{}.console", self.id))
    }

    fn container_dir(&self) -> PathBuf {
        self.state_dir.join(&self.id)
    }
}

/// An array of `struct sock_filter` from its bytes.
fn filter(bytes: &[u8]) -> Result<Vec<libc::sock_filter>, CreateError> {
    let (instructions, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(CreateError::Invalid(
            "seccomp filter is no array of instructions".into(),
        ));
    }
    let decode = |[a, b, jt, jf, k @ ..]: &[u8; 8]| libc::sock_filter {
        code: u16::from_ne_bytes([*a, *b]),
        jt: *jt,
        jf: *jf,
        k: u32::from_ne_bytes(*k),
    };
    Ok(instructions.iter().map(decode).collect())
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pid: i32,
    reply: OwnedFd,
    log: OwnedFd,
    exec: OwnedFd,
}

/// A created container.
#[derive(Debug)]
pub struct Made {
    /// Init's process id in the shim's PID namespace.
    pub pid: i32,
    /// `process` as the container is meant to have it.
    pub process: Process,
    /// Name of the session keyring that init is in.
    pub keyring: Option<String>,
    /// Ends when init's execve succeeds; before that, says why it failed.
    pub exec: ExecReport,
}

/// Forks the worker.
///
/// # Errors
/// A pipe or the fork failed.
pub fn begin(request: &Request, stdio: &ChildEnds<'_>) -> Result<Worker, CreateError> {
    let system = |operation: &'static str| {
        move |errno: rustix::io::Errno| CreateError::system(operation, errno)
    };
    remove_dir(&request.site.container_dir())?;
    let (reply, worker_reply) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(system("socketpair"))?;
    // Init keeps its end of the log until it executes: it must never block.
    let nonblock = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (log, worker_log) = rustix::pipe::pipe_with(nonblock).map_err(system("pipe"))?;
    let (exec, worker_exec) = rustix::pipe::pipe_with(nonblock).map_err(system("pipe"))?;
    let ends = worker::Ends {
        reply: worker_reply,
        log: worker_log,
        exec: worker_exec,
    };
    let pid = {
        let ends = &mut Some(ends);
        sys::fork(|| {
            ends.take()
                .map_or(1, |ends| worker::run(request, stdio, ends))
        })
        .map_err(|error| CreateError::system("fork", error))?
    };
    Ok(Worker {
        pid,
        reply,
        log,
        exec,
    })
}

impl Worker {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it. What it made is [`undo`]'s.
    pub fn kill(&self) {
        // It is our child and not yet reaped, so the pid is its own.
        drop(sys::kill(self.pid, libc::SIGKILL));
    }

    /// What came of it. To be called when it is dead.
    ///
    /// # Errors
    /// Why there is no container.
    pub fn outcome(self, request: &Request) -> Result<Made, Failure> {
        let mut bytes = vec![0; 16 * 1024];
        let n = rustix::io::read(&self.reply, &mut bytes).unwrap_or(0);
        let log = self.read_log();
        let reply = serde_json::from_slice(bytes.get(..n).unwrap_or_default());
        match reply {
            Ok(Reply::Made { pid, home, keyring }) => {
                let mut process = request.spec.process().clone().unwrap_or_default();
                normalise::with_home(&mut process, &home);
                Ok(Made {
                    pid,
                    process,
                    keyring,
                    exec: ExecReport(self.exec),
                })
            }
            Ok(Reply::Failed(mut failure)) => {
                if !log.is_empty() {
                    failure.message = format!("{} [{log}]", failure.message);
                }
                Err(failure)
            }
            Err(_) => Err(Failure {
                stage: "worker".to_owned(),
                message: format!("the create worker died [{log}]"),
                ..Failure::default()
            }),
        }
    }

    fn read_log(&self) -> String {
        let mut bytes = vec![0; LOG_MAX];
        let n = rustix::io::read(&self.log, &mut bytes).unwrap_or(0);
        bytes.truncate(n);
        String::from_utf8_lossy(&bytes)
            .trim_end()
            .replace('\n', "; ")
    }
}

/// Where init tells that it could not execute the program.
#[derive(Debug)]
pub struct ExecReport(OwnedFd);

impl ExecReport {
    /// `None`: nothing yet. `Ok`: the descriptor was closed, by execve or by
    /// init's death.
    pub fn poll(&self) -> Option<Result<(), Failure>> {
        let mut bytes = vec![0; LOG_MAX];
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(0) => Some(Ok(())),
            Ok(n) => Some(Err(serde_json::from_slice(
                bytes.get(..n).unwrap_or_default(),
            )
            .unwrap_or_default())),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(errno) => Some(Err(Failure {
                stage: "execve".to_owned(),
                message: format!("read init's report: {errno}"),
                errno: errno.raw_os_error(),
                invalid: false,
            })),
        }
    }
}

impl AsFd for ExecReport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells a created init to go on and execute its program.
///
/// # Errors
/// Init's socket can't be reached.
pub fn start(site: &Site) -> Result<(), CreateError> {
    let dir = site.container_dir();
    let fail = |source: io::Error| {
        CreateError::system(
            format!("connect {}", dir.join("notify.sock").display()),
            source,
        )
    };
    // The path may be longer than a socket address takes.
    let held = fs::File::open(&dir).map_err(fail)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
    let stream = UnixStream::connect(format!("/proc/self/fd/{fd}/notify.sock")).map_err(fail)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(fail)
}

/// Takes back all that create did, however far it came, and all that it left
/// after an exit: processes, cgroups, directories. Goes on after errors.
#[must_use]
pub fn undo(site: &Site) -> Vec<CreateError> {
    let mut errors = undo_failed(site);
    // Its contents were only ever in the worker's mount namespace.
    let stage = &site.stage_dir;
    errors.extend(ignore_missing("remove", stage, fs::remove_dir(stage)).err());
    errors
}

/// Like [`undo`], but keeps the directory that the daemon made, for another
/// Create to use.
#[must_use]
pub fn undo_failed(site: &Site) -> Vec<CreateError> {
    let mut errors = Vec::new();
    let mut note = |outcome: Result<(), CreateError>| errors.extend(outcome.err());
    note(site.cgroup.kill().map_err(CreateError::Cgroup));
    note(site.cgroup.remove().map_err(CreateError::Cgroup));
    note(remove_dir(&site.container_dir()));
    note(remove_dir(&site.console_dir()));
    errors
}

fn remove_dir(dir: &Path) -> Result<(), CreateError> {
    ignore_missing("remove", dir, fs::remove_dir_all(dir))
}

fn ignore_missing(
    operation: &str,
    path: &Path,
    outcome: io::Result<()>,
) -> Result<(), CreateError> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CreateError::system(
            format!("{operation} {}", path.display()),
            error,
        )),
        _ => Ok(()),
    }
}
