//! A command run to its end, with its output collected.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::client::Shim;
use super::error::ShimError;
use super::requests::ExecSpec;

/// Read at once.
const CHUNK: usize = 16 << 10;
/// How long a grandchild may hold the pipes after the command has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a killed command may take to end.
const TIME_TO_DIE: Duration = Duration::from_secs(2);

/// What a command left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote, up to the cap.
    pub stdout: Vec<u8>,
    /// What it wrote, up to the cap.
    pub stderr: Vec<u8>,
    /// Exit status, or 128 + signal.
    pub code: i32,
}

/// A command that was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecSyncError {
    /// Killed, for its time was up.
    #[error("command took longer than {limit:?} and was killed")]
    Timeout {
        /// The time it had.
        limit: Duration,
        /// What it had written by then; its code is 137.
        output: Box<ExecOutput>,
    },
    /// It could not be started, or the shim is gone.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// One stream, up to a cap. The rest is read and thrown away, so that the
/// command goes on.
#[derive(Debug)]
struct Collected {
    pipe: Option<pipe::Receiver>,
    bytes: Vec<u8>,
    cap: usize,
}

impl Collected {
    fn new(pipe: Option<pipe::Receiver>, cap: usize) -> Self {
        Self {
            pipe,
            bytes: Vec::new(),
            cap,
        }
    }

    /// Until the end of the stream. Dropping the future loses nothing.
    async fn read_all(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = vec![0; CHUNK];
        loop {
            let mut buffer = ReadBuf::new(&mut chunk);
            let read = poll_fn(|cx| pin!(&mut *pipe).poll_read(cx, &mut buffer)).await;
            let filled = buffer.filled();
            if read.is_err() || filled.is_empty() {
                self.pipe = None;
                return;
            }
            let room = self.cap.saturating_sub(self.bytes.len()).min(filled.len());
            self.bytes
                .extend_from_slice(filled.get(..room).unwrap_or_default());
        }
    }
}

/// Runs a command in the container and collects what it writes, at most `cap`
/// bytes of each stream. `timeout` None: as long as it takes.
///
/// Dropping the future kills the command.
///
/// # Errors
/// [`ExecSyncError::Timeout`]; else as [`Shim::exec`].
pub async fn exec_sync(
    shim: &Shim,
    exec_id: String,
    args: Vec<Vec<u8>>,
    timeout: Option<Duration>,
    cap: usize,
) -> Result<ExecOutput, ExecSyncError> {
    let spec = ExecSpec {
        exec_id: exec_id.clone(),
        args,
        stdout: true,
        stderr: true,
        kill_on_disconnect: true,
        ..ExecSpec::default()
    };
    // Before the request: the shim takes requests in their order, so the kill of
    // a caller who leaves before the answer finds the command started.
    let mut abandoned = KillWhenDropped {
        shim: Some((shim.clone(), exec_id.clone())),
    };
    let started = shim.exec(spec).await;
    if started.is_err() {
        abandoned.shim = None;
    }
    let mut exec = started?;
    let mut stdout = Collected::new(exec.streams.stdout.take(), cap);
    let mut stderr = Collected::new(exec.streams.stderr.take(), cap);
    let ended = tokio::select! {
        status = &mut exec.exit => Ok(status?.code),
        limit = expire(timeout) => Err(limit),
        never = forever(async { tokio::join!(stdout.read_all(), stderr.read_all()); }) => {
            match never {}
        }
    };
    if ended.is_err() {
        // NOT_FOUND: it has just ended by itself, which was too late.
        shim.kill_exec(&exec_id, libc::SIGKILL, true).await.ok();
        // Not ended even so: it is left to the shim, which reaps it.
        tokio::time::timeout(TIME_TO_DIE, &mut exec.exit).await.ok();
    }
    abandoned.shim = None;
    let drain = async { tokio::join!(stdout.read_all(), stderr.read_all()) };
    // A grandchild that holds the pipes is not waited for.
    tokio::time::timeout(DRAIN, drain).await.ok();
    let (stdout, stderr) = (stdout.bytes, stderr.bytes);
    match ended {
        Ok(code) => Ok(ExecOutput {
            stdout,
            stderr,
            code,
        }),
        Err(limit) => {
            let output = Box::new(ExecOutput {
                stdout,
                stderr,
                code: 128 + libc::SIGKILL,
            });
            Err(ExecSyncError::Timeout { limit, output })
        }
    }
}

/// Resolves when the time is up.
async fn expire(timeout: Option<Duration>) -> Duration {
    match timeout {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// Runs `work` beside others in a `select!` that it never ends: a command may
/// close its output long before it ends itself.
async fn forever(work: impl Future<Output = ()>) -> std::convert::Infallible {
    work.await;
    std::future::pending().await
}

/// A caller that goes away takes its command along.
struct KillWhenDropped {
    shim: Option<(Shim, String)>,
}

impl Drop for KillWhenDropped {
    fn drop(&mut self) {
        if let Some((shim, exec_id)) = self.shim.take() {
            shim.abandon(exec_id);
        }
    }
}
