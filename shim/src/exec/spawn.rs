//! The shim's side: fork, and hear what became of it.

#![allow(
    unsafe_code,
    reason = "reaps children that the reaper must not see, by pid"
)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::context::Context;
use super::enter::{self, PROCESS_ID};
use super::error::{ExecError, Step};
use super::plan::Plan;
use super::{Descriptors, ExecRequest, Spawned};

/// How long a child may take to execve. Joining a cgroup takes up to 25 ms;
/// more than this is a program on a file system that doesn't answer.
const TIME_TO_EXECVE: Duration = Duration::from_secs(10);

/// Starts a process in the container and waits until its execve succeeded, at
/// most ten seconds.
///
/// The children that it made and that are not returned are reaped here, or,
/// where that would block, left to the shim's reaper, which must ignore pids
/// that it doesn't know.
///
/// # Errors
/// The step and errno that failed. The process is then gone.
pub fn spawn(
    context: &Context,
    request: &ExecRequest,
    descriptors: Descriptors,
) -> Result<Spawned, ExecError> {
    let (plan, pty_master) = Plan::new(context, request, descriptors)?;
    let (status, child_status) = status_pipe().map_err(|e| ExecError::new(Step::Fork, e))?;
    let outer =
        enter::fork(&plan, child_status.as_fd()).map_err(|e| ExecError::new(Step::Fork, e))?;
    // The ends of the child: what is read must end when the child's do.
    drop((child_status, plan));
    let report = Report::read(status, Instant::now() + TIME_TO_EXECVE);
    let (pid, failure) = match report {
        Ok(Report {
            inner: Some(pid),
            failure: None,
        }) => {
            reap(outer, 0);
            let pidfd = enter::pidfd_open(pid).map_err(|e| ExecError::new(Step::Died, e))?;
            return Ok(Spawned {
                pid,
                pidfd,
                pty_master,
            });
        }
        Ok(Report {
            inner,
            failure: Some(failure),
        }) => (inner, ExecError::from_errno(failure.step, failure.errno)),
        Ok(Report {
            inner: None,
            failure: None,
        }) => (None, ExecError::from_errno(Step::Died, libc::ECHILD)),
        Err(Unheard { inner, source }) => {
            for pid in inner.into_iter().chain([outer]) {
                kill(pid);
            }
            // A child in uninterruptible sleep is left to the reaper.
            for pid in inner.into_iter().chain([outer]) {
                reap(pid, libc::WNOHANG);
            }
            return Err(ExecError::new(Step::TimedOut, source));
        }
    };
    for pid in pid.into_iter().chain([outer]) {
        reap(pid, 0);
    }
    Err(failure)
}

/// (read, write), the latter above 2, where the child puts its stdio.
fn status_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let write = enter::duplicate_above(write.as_fd(), 3)?;
    Ok((read, write))
}

/// What the children wrote to the status pipe until all ends were closed.
#[derive(Debug, Default)]
struct Report {
    inner: Option<i32>,
    failure: Option<enter::Failure>,
}

/// The pipe was not closed in time.
#[derive(Debug)]
struct Unheard {
    inner: Option<i32>,
    source: io::Error,
}

impl Report {
    fn read(status: OwnedFd, deadline: Instant) -> Result<Self, Unheard> {
        let mut status = File::from(status);
        let mut report = Self::default();
        loop {
            let mut message = [0; 8];
            let read =
                wait_readable(&status, deadline).and_then(|()| status.read_exact(&mut message));
            match read {
                Ok(()) => report.take(message),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(report),
                Err(source) => {
                    return Err(Unheard {
                        inner: report.inner,
                        source,
                    });
                }
            }
        }
    }

    fn take(&mut self, [w0, w1, w2, w3, v0, v1, v2, v3]: [u8; 8]) {
        let what = u32::from_ne_bytes([w0, w1, w2, w3]);
        let value = i32::from_ne_bytes([v0, v1, v2, v3]);
        match Step::from_number(what) {
            Some(step) => self.failure = Some(enter::Failure { step, errno: value }),
            None if what == PROCESS_ID => self.inner = Some(value),
            None => {}
        }
    }
}

fn wait_readable(status: &File, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(status.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn kill(pid: i32) {
    // SAFETY: integers only; an unreaped child of ours, so the pid is not reused.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Reaps a child whose end of the status pipe is closed: it has exited or is
/// about to. It may be gone already if the caller's reaper runs elsewhere.
fn reap(pid: i32, flags: i32) {
    let mut status = 0;
    // SAFETY: writes one int.
    while unsafe { libc::waitpid(pid, &raw mut status, flags) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}
