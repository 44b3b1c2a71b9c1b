//! Runs one plugin once (CNI specification, "Execution protocol").

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::error::{Complaint, PluginCause};

/// A result is a few kilobytes; more than this is no result.
const STDOUT_MAX: u64 = 1 << 20;
/// What is kept of a plugin's messages.
const STDERR_MAX: usize = 8 << 10;
/// An executable that is being replaced can't be run for a moment.
const BUSY_TRIES: u32 = 5;

/// What a plugin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Tell whether ADD would work.
    Status,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        })
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    pub(super) plugin: &'a str,
    pub(super) container: &'a str,
    /// Empty where the namespace is gone.
    pub(super) netns: &'a Path,
    pub(super) ifname: &'a str,
    pub(super) args: &'a str,
    pub(super) stdin: Vec<u8>,
}

/// Where plugins are and how long they may take.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) timeout: Duration,
}

impl Runner {
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf, PluginCause> {
        self.bin_dirs
            .iter()
            .map(|dir| dir.join(plugin))
            .find(|path| path.is_file())
            .ok_or_else(|| PluginCause::Missing {
                dirs: self
                    .bin_dirs
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// Runs the plugin and returns what it printed.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Vec<u8>, PluginCause> {
        let path = self.find(call.plugin)?;
        let mut command = self.command(&path, call);
        let mut child = spawn(&mut command).await.map_err(spawned(&path))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let mut stderr = Vec::new();
        let talk = talk(&mut child, &call.stdin, &mut stderr);
        let Ok(ended) = tokio::time::timeout(self.timeout, talk).await else {
            kill_group(group, call.plugin);
            if let Err(error) = child.wait().await {
                tracing::warn!(plugin = call.plugin, %error, "killed plugin not reaped");
            }
            return Err(PluginCause::Timeout {
                after: self.timeout,
                stderr: lossy(&stderr),
            });
        };
        let (status, stdout) = ended.map_err(spawned(&path))?;
        if status.success() {
            return Ok(stdout);
        }
        Err(match serde_json::from_slice::<Complaint>(&stdout) {
            Ok(complaint) => PluginCause::Failed {
                complaint,
                stderr: lossy(&stderr),
            },
            Err(_) => PluginCause::Died {
                status,
                stderr: lossy(if stderr.is_empty() { &stdout } else { &stderr }),
            },
        })
    }

    fn command(&self, path: &Path, call: &Call<'_>) -> Command {
        let mut command = Command::new(path);
        command
            .env("CNI_COMMAND", call.verb.to_string())
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.ifname)
            .env("CNI_ARGS", call.args)
            .env(
                "CNI_PATH",
                std::env::join_paths(&self.bin_dirs).unwrap_or_default(),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if call.verb == Verb::Status {
            for key in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
                command.env_remove(key);
            }
        }
        command
    }
}

async fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
            {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50 << tries)).await;
            }
            other => return other,
        }
    }
}

fn spawned(path: &Path) -> impl FnOnce(io::Error) -> PluginCause {
    move |source| PluginCause::Spawn {
        path: path.to_owned(),
        source,
    }
}

async fn talk(
    child: &mut Child,
    stdin: &[u8],
    stderr: &mut Vec<u8>,
) -> io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut to) = to else { return Ok(()) };
        match to.write_all(stdin).await {
            // A plugin may answer without reading all of its configuration.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    };
    let mut stdout = Vec::new();
    let (written, read, kept) = tokio::join!(write, read_all(out, &mut stdout), tail(err, stderr));
    written.and(read).and(kept)?;
    Ok((child.wait().await?, stdout))
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut limited = from.take(STDOUT_MAX);
    limited.read_to_end(into).await?;
    // What is beyond the limit is read away: a plugin that is stuck on a full
    // pipe would look like one that hangs.
    tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads to the end and keeps the last [`STDERR_MAX`] bytes.
async fn tail(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    loop {
        if from.read_buf(into).await? == 0 {
            return Ok(());
        }
        let surplus = into.len().saturating_sub(STDERR_MAX);
        into.drain(..surplus);
    }
}

fn kill_group(group: Option<i32>, plugin: &str) {
    if let Some(group) = group
        && let Err(error) = killpg(Pid::from_raw(group), Signal::SIGKILL)
    {
        tracing::warn!(plugin, %error, "process group of the plugin not killed");
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
