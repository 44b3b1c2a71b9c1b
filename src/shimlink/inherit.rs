//! What a started shim inherits: descriptor 3, and no session.

#![allow(
    unsafe_code,
    reason = "std runs code between fork and exec only by an unsafe method"
)]

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The descriptor at which every mode of the shim expects its socket.
const SOCKET: RawFd = 3;

/// `socket` must stay open until the command was spawned.
pub(super) fn prepare(command: &mut Command, socket: Option<RawFd>) {
    // SAFETY: the closure makes system calls only: no allocation, no locks.
    unsafe {
        command.pre_exec(move || {
            // Fails for a leader of its process group, which a child is not.
            check(libc::setsid())?;
            match socket {
                // dup2(2) of one onto itself would leave it closed on exec.
                Some(SOCKET) => check(libc::fcntl(SOCKET, libc::F_SETFD, 0)),
                Some(socket) => check(libc::dup2(socket, SOCKET)),
                None => Ok(()),
            }
        });
    }
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
