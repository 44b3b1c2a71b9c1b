//! A child process with its output in a file, ended when it is dropped.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The child and its log; SIGKILL on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with no input and both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone().context("clone the log's descriptor")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self {
            child,
            log: log.to_path_buf(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it was reaped already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("send {signal} to {}", self.child.id()))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// As wait4(2).
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for a child")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "process {} still runs after {limit:?}\n{}",
                    self.pid(),
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, then waits.
    ///
    /// # Errors
    /// As wait4(2).
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().context("kill a child")?;
        self.child.wait().context("wait for a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Polls `ready` until it holds, the process ends or `limit` passes.
///
/// # Errors
/// In the latter two cases, with the process's log.
pub fn wait_until(
    process: &mut Process,
    limit: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready() {
        if let Some(status) = process.try_wait()? {
            let code = status.code().or(status.signal());
            bail!("ended early ({code:?}: {status})\n{}", process.log());
        }
        if Instant::now() > deadline {
            bail!("not ready after {limit:?}\n{}", process.log());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a command to its end and hands back its standard output.
///
/// # Errors
/// When it cannot be started or fails; the message carries both outputs.
pub fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("start {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}
