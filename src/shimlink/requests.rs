//! What a shim can be asked for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use longshore_proto::shim::v1::{self, request::Op, response};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::client::{ExecStatus, Shim};
use super::error::ShimError;

/// A container that is ready to start.
#[derive(Debug)]
pub struct Created {
    /// Init in the shim's PID namespace, which is the daemon's.
    pub pid: i32,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
}

/// What to run, and which of its streams are wanted. What is not is
/// /dev/null; with a terminal all are the terminal.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Unique within the container.
    pub exec_id: String,
    /// argv.
    pub args: Vec<Vec<u8>>,
    /// On a terminal.
    pub tty: bool,
    /// A pipe to its stdin.
    pub stdin: bool,
    /// A pipe from its stdout.
    pub stdout: bool,
    /// A pipe from its stderr.
    pub stderr: bool,
    /// Kill it when the daemon's connection ends.
    pub kill_on_disconnect: bool,
}

/// The daemon's ends of some streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// To the process.
    pub stdin: Option<pipe::Sender>,
    /// From the process.
    pub stdout: Option<pipe::Receiver>,
    /// From the process.
    pub stderr: Option<pipe::Receiver>,
}

/// A process that was started in the container.
#[derive(Debug)]
pub struct Exec {
    /// As in the spec.
    pub exec_id: String,
    /// In the daemon's PID namespace.
    pub pid: i32,
    /// Without a terminal.
    pub streams: Streams,
    /// With a terminal: its master.
    pub master: Option<OwnedFd>,
    /// Its end.
    pub exit: ExecExit,
}

/// Resolves when the process has ended. An error: the shim is gone.
#[derive(Debug)]
pub struct ExecExit {
    container: String,
    status: oneshot::Receiver<ExecStatus>,
}

impl Future for ExecExit {
    type Output = Result<ExecStatus, ShimError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.status)
            .poll(cx)
            .map_err(|_| ShimError::Lost {
                id: self.container.clone(),
                operation: "exec",
            })
    }
}

/// A shim's account of itself.
#[derive(Debug)]
pub struct State {
    /// The account.
    pub reply: v1::StateReply,
    /// Of init, while the container is created or running.
    pub pidfd: Option<OwnedFd>,
}

/// The other ends, to be sent and then closed.
#[derive(Debug, Default)]
struct FarEnds(Vec<OwnedFd>);

impl FarEnds {
    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

fn pipes(stdin: bool, stdout: bool, stderr: bool) -> Result<(Streams, FarEnds), ShimError> {
    let new = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| ShimError::system("pipe2", e))
    };
    let wrap = |e| ShimError::system("watch pipe", e);
    let (mut near, mut far) = (Streams::default(), FarEnds::default());
    if stdin {
        let (read, write) = new()?;
        near.stdin = Some(pipe::Sender::from_owned_fd(write).map_err(wrap)?);
        far.0.push(read);
    }
    for (wanted, end) in [(stdout, &mut near.stdout), (stderr, &mut near.stderr)] {
        if wanted {
            let (read, write) = new()?;
            *end = Some(pipe::Receiver::from_owned_fd(read).map_err(wrap)?);
            far.0.push(write);
        }
    }
    Ok((near, far))
}

impl Shim {
    /// Creates the container: everything but the execve of its program.
    ///
    /// # Errors
    /// What the shim says, with the stage; then nothing of it is left.
    pub async fn create(&self, create: v1::Create) -> Result<Created, ShimError> {
        let answer = self.link.ask("create", Op::Create(create), &[]).await?;
        match (answer.result, answer.fds.into_iter().next()) {
            (response::Result::Created(v1::Created { pid }), Some(pidfd)) => {
                Ok(Created { pid, pidfd })
            }
            _ => Err(self.link.mismatch("create")),
        }
    }

    /// Runs the program of a created container. Its start in nanoseconds of
    /// CLOCK_REALTIME.
    ///
    /// # Errors
    /// As the shim says; `NOT_EXECUTABLE` for a program that is none.
    pub async fn start(&self) -> Result<i64, ShimError> {
        let answer = self.link.ask("start", Op::Start(v1::Start {}), &[]).await?;
        let response::Result::Started(started) = answer.result else {
            return Err(self.link.mismatch("start"));
        };
        Ok(started.started_at)
    }

    /// Sends a signal to init, or to every process of the container.
    ///
    /// # Errors
    /// As the shim says.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), ShimError> {
        self.link
            .tell("kill", Op::Kill(v1::Kill { signal, all }), &[])
            .await
    }

    /// Starts another process in the container. Its end can't be missed: the
    /// returned future is armed before the shim is asked.
    ///
    /// # Errors
    /// As the shim says; `NOT_EXECUTABLE` for a program that is none.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, ShimError> {
        let piped = !spec.tty;
        let (stdin, stdout, stderr) = (
            piped && spec.stdin,
            piped && spec.stdout,
            piped && spec.stderr,
        );
        let (streams, far) = pipes(stdin, stdout, stderr)?;
        let exec_id = spec.exec_id;
        let expected = ExpectedExec {
            shim: self,
            exec_id: exec_id.clone(),
            status: Some(self.link.expect_exec(&exec_id)),
        };
        let op = Op::Exec(v1::Exec {
            exec_id: exec_id.clone(),
            args: spec.args,
            tty: spec.tty,
            stdin,
            stdout,
            stderr,
            kill_on_disconnect: spec.kill_on_disconnect,
        });
        let answer = self.link.ask("exec", op, &far.borrowed()).await?;
        drop(far);
        let response::Result::ExecStarted(v1::ExecStarted { pid }) = answer.result else {
            return Err(self.link.mismatch("exec"));
        };
        let master = answer.fds.into_iter().next();
        if spec.tty != master.is_some() {
            return Err(self.link.mismatch("exec"));
        }
        Ok(Exec {
            exec_id,
            pid,
            streams,
            master,
            exit: expected.started()?,
        })
    }

    /// Sends a signal to an exec'd process, and with `group` to its whole
    /// process group.
    ///
    /// # Errors
    /// `NOT_FOUND` once it has ended.
    pub async fn kill_exec(
        &self,
        exec_id: &str,
        signal: i32,
        group: bool,
    ) -> Result<(), ShimError> {
        let op = v1::KillExec {
            exec_id: exec_id.to_owned(),
            signal,
            group,
        };
        self.link.tell("kill exec", Op::KillExec(op), &[]).await
    }

    /// Sets the size of the container's terminal, or of an exec's.
    ///
    /// # Errors
    /// No such exec, no terminal, or a size of 0 or above 65535.
    pub async fn resize(
        &self,
        exec_id: Option<&str>,
        columns: u32,
        rows: u32,
    ) -> Result<(), ShimError> {
        let exec_id = exec_id.unwrap_or_default().to_owned();
        self.link
            .tell(
                "resize",
                Op::Resize(v1::Resize {
                    exec_id,
                    columns,
                    rows,
                }),
                &[],
            )
            .await
    }

    /// Opens the log again: the new file exists when this returns, and
    /// nothing more goes to the old one.
    ///
    /// # Errors
    /// As the shim says; the old file then goes on.
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        self.link
            .tell("reopen log", Op::ReopenLog(v1::ReopenLog {}), &[])
            .await
    }

    /// Connects to the container's stdio from now on.
    ///
    /// # Errors
    /// As the shim says.
    pub async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Streams, ShimError> {
        let (streams, far) = pipes(stdin, stdout, stderr)?;
        let op = Op::Attach(v1::Attach {
            stdin,
            stdout,
            stderr,
        });
        self.link.tell("attach", op, &far.borrowed()).await?;
        Ok(streams)
    }

    /// What the shim knows.
    ///
    /// # Errors
    /// The shim is gone.
    pub async fn state(&self) -> Result<State, ShimError> {
        let answer = self.link.ask("state", Op::State(v1::State {}), &[]).await?;
        let response::Result::State(reply) = answer.result else {
            return Err(self.link.mismatch("state"));
        };
        Ok(State {
            reply,
            pidfd: answer.fds.into_iter().next(),
        })
    }

    /// Says that the exit is recorded: the shim cleans up and ends itself.
    ///
    /// # Errors
    /// `BAD_STATE` while the container runs.
    pub async fn collect(&self) -> Result<(), ShimError> {
        self.link
            .tell("collect", Op::Collect(v1::Collect {}), &[])
            .await
    }
}

/// Forgets the exec where it was not started.
struct ExpectedExec<'a> {
    shim: &'a Shim,
    exec_id: String,
    status: Option<oneshot::Receiver<ExecStatus>>,
}

impl ExpectedExec<'_> {
    fn started(mut self) -> Result<ExecExit, ShimError> {
        let status = self
            .status
            .take()
            .ok_or_else(|| self.shim.link.mismatch("exec"))?;
        Ok(ExecExit {
            container: self.shim.id().to_owned(),
            status,
        })
    }
}

impl Drop for ExpectedExec<'_> {
    fn drop(&mut self) {
        if self.status.is_some() {
            self.shim.link.forget_exec(&self.exec_id);
        }
    }
}
