//! The runtime port filled by longshore's own shims.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore_proto::shim::v1;

use crate::base::clock;
use crate::base::id::ContainerId;
use crate::shimlink::{ExecSyncError, Shim, ShimError, ShimExit, Shims, exec_sync};

use super::ports::{
    CreateTask, ExecLimits, ExecOutput, Rootfs, Runtime, RuntimeError, SeccompFilter, Task,
    TaskEnd, TaskExit, TaskState, TaskStatus, Work,
};

/// How long a shim whose container was killed may take to see that it ended.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a shim may take to answer, and a killed one to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container in a shim.
#[derive(Debug)]
struct ShimTask(Shim);

fn failed(operation: &str, error: ShimError) -> RuntimeError {
    if let ShimError::Refused(refused) = &error {
        let (stage, message) = (refused.stage.clone(), refused.message.clone());
        if refused.kind == v1::error::Kind::NotExecutable {
            return RuntimeError::NotExecutable { stage, message };
        }
        if refused.kind == v1::error::Kind::BadState {
            return RuntimeError::BadState { stage, message };
        }
    }
    if matches!(error, ShimError::Lost { .. }) {
        return RuntimeError::Gone;
    }
    RuntimeError::Failed {
        operation: operation.to_owned(),
        source: Box::new(error),
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The protocol's strings are text; every such path follows from a root that
/// the configuration gives as text, or from the request.
fn text(path: &Path) -> String {
    path.display().to_string()
}

fn rootfs(rootfs: Rootfs) -> v1::Rootfs {
    let optional = |path: Option<_>| path.map(|path: std::path::PathBuf| bytes(&path));
    v1::Rootfs {
        lower: rootfs.lower.iter().map(|path| bytes(path)).collect(),
        upper: optional(rootfs.upper).unwrap_or_default(),
        work: optional(rootfs.work).unwrap_or_default(),
        options: rootfs.options,
        idmap_userns: rootfs.idmap_userns.as_deref().map(text).unwrap_or_default(),
    }
}

fn message(id: &str, create: CreateTask) -> Result<v1::Create, RuntimeError> {
    let spec = serde_json::to_vec(&*create.spec).map_err(|source| RuntimeError::Failed {
        operation: "encode the spec".to_owned(),
        source: Box::new(source),
    })?;
    Ok(v1::Create {
        id: id.to_owned(),
        spec,
        rootfs: Some(rootfs(create.rootfs)),
        stage_dir: text(&create.stage_dir),
        state_dir: text(&create.state_dir),
        exit_record: text(&create.exit_record),
        stdio: Some(v1::Stdio {
            tty: create.tty,
            stdin: create.stdin,
            stdin_once: create.stdin_once,
            log_path: create.log_path.as_deref().map(text).unwrap_or_default(),
            log_line_bytes: 0,
        }),
        seccomp_filter: create.seccomp.program,
        seccomp_flags: create.seccomp.flags,
        cgroup_writable: create.cgroup_writable,
        record: create.record,
    })
}

fn exit(exited: &v1::Exited) -> TaskExit {
    TaskExit {
        code: exited.code,
        oom_killed: exited.oom_killed,
        started_at: exited.started_at,
        finished_at: exited.finished_at,
    }
}

impl Task for ShimTask {
    fn create(&self, create: CreateTask) -> Work<'_, Result<i32, RuntimeError>> {
        Box::pin(async move {
            let create = message(self.0.id(), create)?;
            let created = self.0.create(create).await;
            created
                .map(|created| created.pid)
                .map_err(|error| failed("create", error))
        })
    }

    fn start(&self) -> Work<'_, Result<i64, RuntimeError>> {
        Box::pin(async move { self.0.start().await.map_err(|error| failed("start", error)) })
    }

    fn kill(&self, signal: i32) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            let sent = self.0.kill(signal, false).await;
            sent.map_err(|error| failed("signal", error))
        })
    }

    fn exec_sync<'a>(
        &'a self,
        args: &'a [String],
        limits: ExecLimits,
    ) -> Work<'a, Result<ExecOutput, RuntimeError>> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Box::pin(async move {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            // Unique also beside those that an earlier daemon started.
            let exec_id = format!("sync-{}-{serial}", clock::now_nanos());
            let args = args.iter().map(|arg| arg.clone().into_bytes()).collect();
            let cap = limits.output_bytes;
            match exec_sync(&self.0, exec_id, args, limits.timeout, cap).await {
                Ok(output) => Ok(ExecOutput {
                    stdout: output.stdout,
                    stderr: output.stderr,
                    exit_code: output.code,
                }),
                Err(ExecSyncError::Timeout { limit, .. }) => Err(RuntimeError::TimedOut(limit)),
                Err(ExecSyncError::Shim(error)) => Err(failed("exec", error)),
            }
        })
    }

    fn reopen_log(&self) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            let reopened = self.0.reopen_log().await;
            reopened.map_err(|error| failed("reopen log", error))
        })
    }

    fn state(&self) -> Work<'_, Result<TaskState, RuntimeError>> {
        Box::pin(async move {
            let state = self.0.state().await;
            let reply = state
                .map_err(|error| failed("ask for the state", error))?
                .reply;
            let status = match (reply.status(), &reply.exit) {
                (v1::state_reply::Status::Empty, _) => TaskStatus::Empty,
                (v1::state_reply::Status::Created, _) => TaskStatus::Created,
                (v1::state_reply::Status::Running, _) => TaskStatus::Running {
                    started_at: reply.started_at,
                },
                (v1::state_reply::Status::Stopped, Some(exited)) => {
                    TaskStatus::Stopped(exit(exited))
                }
                // Stopped without an exit: nothing was ever created, or all is lost.
                (v1::state_reply::Status::Stopped, None) => TaskStatus::Empty,
            };
            Ok(TaskState {
                status,
                pid: reply.pid,
                record: reply.record,
            })
        })
    }

    fn collect(&self) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move { collect(&self.0).await })
    }

    fn ended(&self) -> Work<'static, TaskEnd> {
        let mut end = self.0.exited();
        Box::pin(async move {
            match end.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(ShimExit::Exited(exited))) => TaskEnd::Exited(exit(exited)),
                // The connection is no more; the caller kills what may live.
                Ok(Some(ShimExit::Lost { .. }) | None) | Err(_) => TaskEnd::Lost,
            }
        })
    }
}

/// A shim sees the end of its container a moment after the kernel.
async fn collect(shim: &Shim) -> Result<(), RuntimeError> {
    let begun = tokio::time::Instant::now();
    loop {
        match shim
            .collect()
            .await
            .map_err(|error| failed("collect", error))
        {
            Ok(()) | Err(RuntimeError::Gone) => return Ok(()),
            Err(RuntimeError::BadState { .. }) if begun.elapsed() < SETTLE => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn system(operation: &str, source: std::io::Error) -> RuntimeError {
    RuntimeError::Failed {
        operation: operation.to_owned(),
        source: Box::new(source),
    }
}

/// Waits until the process of the shim is gone; kills it first if `kill`.
async fn gone(shim: &Shim, kill: bool) -> Result<(), RuntimeError> {
    let Some(pidfd) = shim.pidfd() else {
        return Ok(());
    };
    if kill {
        match rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(system("kill the shim", errno.into())),
        }
    }
    ended(pidfd).await
}

/// Waits for the end of a process.
async fn ended(pidfd: OwnedFd) -> Result<(), RuntimeError> {
    let pidfd = crate::base::readable::Readable::new(pidfd)
        .map_err(|error| system("watch the shim", error))?;
    match tokio::time::timeout(PATIENCE, pidfd.readable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(system("watch the shim", error)),
        Err(_) => Err(RuntimeError::TimedOut(PATIENCE)),
    }
}

async fn discard(shims: &Shims, id: &str) -> Result<(), RuntimeError> {
    match tokio::time::timeout(PATIENCE, shims.connect(id)).await {
        Ok(found) => {
            if let Some(shim) = found.map_err(|error| failed("connect to the shim", error))? {
                let collected = tokio::time::timeout(PATIENCE, collect(&shim)).await;
                let ended = matches!(collected, Ok(Ok(())));
                gone(&shim, !ended).await?;
            }
        }
        Err(_) => end_silent(shims, id).await?,
    }
    let removed = shims.remove(id);
    removed.map_err(|error| failed("remove the shim's socket", error))
}

/// Kills a shim that takes connections and never answers. While it can't be
/// found, it is not gone.
async fn end_silent(shims: &Shims, id: &str) -> Result<(), RuntimeError> {
    let killed = shims.kill(id).await;
    let killed = killed.map_err(|error| failed("kill the shim", error))?;
    if killed.is_empty() {
        return Err(system(
            "end a shim that does not answer",
            std::io::ErrorKind::TimedOut.into(),
        ));
    }
    tracing::warn!(container = id, "its shim did not answer and was killed");
    for pidfd in killed {
        ended(pidfd).await?;
    }
    Ok(())
}

impl Runtime for Shims {
    fn spawn<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<Arc<dyn Task>, RuntimeError>> {
        Box::pin(async move {
            let shim = Shims::spawn(self, id.as_str()).await;
            let shim = shim.map_err(|error| failed("start a shim", error))?;
            Ok(Arc::new(ShimTask(shim)) as Arc<dyn Task>)
        })
    }

    fn connect<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> Work<'a, Result<Option<Arc<dyn Task>>, RuntimeError>> {
        Box::pin(async move {
            let shim = Shims::connect(self, id.as_str()).await;
            let shim = shim.map_err(|error| failed("connect to the shim", error))?;
            Ok(shim.map(|shim| Arc::new(ShimTask(shim)) as Arc<dyn Task>))
        })
    }

    fn list(&self) -> Work<'_, Result<Vec<ContainerId>, RuntimeError>> {
        Box::pin(async move {
            let names = Shims::list(self).map_err(|error| failed("list shims", error))?;
            // Other sockets there are not containers'.
            Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
        })
    }

    fn discard<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<(), RuntimeError>> {
        Box::pin(discard(self, id.as_str()))
    }

    fn compile_seccomp<'a>(
        &'a self,
        profile: &'a Path,
        capabilities: &'a [String],
    ) -> Work<'a, Result<SeccompFilter, RuntimeError>> {
        Box::pin(async move {
            let read = tokio::fs::read_to_string(profile).await;
            let json = read.map_err(|source| RuntimeError::Failed {
                operation: format!("read seccomp profile {}", profile.display()),
                source: Box::new(source),
            })?;
            let filter = Shims::compile_seccomp(self, &json, capabilities).await;
            let filter = filter.map_err(|error| failed("compile seccomp profile", error))?;
            Ok(SeccompFilter {
                program: filter.program.to_vec(),
                flags: filter.flags,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    use super::*;
    use crate::base::tasks::Tasks;
    use crate::shimlink::ShimsConfig;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A socket that takes connections, and nobody who answers.
    fn silent(dir: &Path) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(dir.join(ID)).unwrap()).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        socket
    }

    fn shims(dir: &Path, group: PathBuf) -> Shims {
        Shims::new(ShimsConfig {
            binary: "/bin/true".into(),
            sockets: dir.to_owned(),
            cgroup: vec![group],
            tasks: Tasks::new(),
        })
        .unwrap()
    }

    /// A process with the command line of a shim.
    fn stuck(id: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.arg0("longshore-shim");
        command
            .args(["-c", "sleep 1000 & wait", "serve", "--id", id])
            .process_group(0);
        command.spawn().unwrap()
    }

    fn end(mut child: Child) {
        let group = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_silent_shim_that_cant_be_found_is_an_error_and_no_wait_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = silent(dir.path());
        let group = dir.path().join("group");
        std::fs::write(&group, "").unwrap();
        let shims = shims(dir.path(), group);
        let discarded = tokio::time::timeout(PATIENCE * 10, discard(&shims, ID)).await;
        assert!(matches!(discarded, Ok(Err(_))), "{discarded:?}");
        assert!(dir.path().join(ID).exists());
    }

    #[tokio::test]
    async fn a_silent_shim_is_killed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = silent(dir.path());
        let (own, other) = (stuck(ID), stuck(&ID.replace('0', "1")));
        let group = dir.path().join("group");
        std::fs::write(&group, format!("{}\n{}\n", other.id(), own.id())).unwrap();
        let shims = shims(dir.path(), group);
        let discarded = tokio::time::timeout(PATIENCE * 3, discard(&shims, ID)).await;
        let alive = |child: &mut Child| child.try_wait().unwrap().is_none();
        let (mut own, mut other) = (own, other);
        let lived = (alive(&mut own), alive(&mut other));
        end(own);
        end(other);
        assert!(matches!(discarded, Ok(Ok(()))), "{discarded:?}");
        assert_eq!(lived, (false, true));
        assert!(!dir.path().join(ID).exists());
    }
}
