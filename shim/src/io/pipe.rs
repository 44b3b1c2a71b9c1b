//! Pipes between the container and the shim.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::error::StdioError;

/// Both ends of each stream.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) child: ChildPipes,
    /// None: the container's stdin is /dev/null.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The container's ends.
#[derive(Debug)]
pub(super) struct ChildPipes {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Pipes {
    pub(super) fn new(stdin: bool, owner: (u32, u32)) -> Result<Self, StdioError> {
        let (child_stdin, stdin) = if stdin {
            let (read, write) = pipe(owner)?;
            set_nonblocking(&write)?;
            (read, Some(write))
        } else {
            let null = OpenOptions::new().read(true).open("/dev/null");
            (null.map_err(|e| system("open /dev/null", e))?.into(), None)
        };
        let (stdout, child_stdout) = pipe(owner)?;
        let (stderr, child_stderr) = pipe(owner)?;
        set_nonblocking(&stdout)?;
        set_nonblocking(&stderr)?;
        let child = ChildPipes {
            stdin: child_stdin,
            stdout: child_stdout,
            stderr: child_stderr,
        };
        Ok(Self {
            child,
            stdin,
            stdout,
            stderr,
        })
    }
}

/// (read, write), of an inode that the container's user owns: opening
/// /dev/stdout again is an open of it.
fn pipe((uid, gid): (u32, u32)) -> Result<(OwnedFd, OwnedFd), StdioError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| system("pipe2", e))?;
    fchown(&read, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|e| system("fchown", e))?;
    Ok((read, write))
}

/// Of the open file description: not for the container's ends.
pub(super) fn set_nonblocking(fd: impl AsFd) -> Result<(), StdioError> {
    let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|e| system("fcntl F_GETFL", e))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(|e| system("fcntl F_SETFL", e))?;
    Ok(())
}

pub(super) fn system(call: &'static str, source: impl Into<io::Error>) -> StdioError {
    StdioError::System {
        call,
        source: source.into(),
    }
}
