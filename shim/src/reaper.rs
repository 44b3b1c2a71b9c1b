//! The only place that waits for children. It never waits for one in
//! particular: PID 1 of a container cannot finish exiting while an exec'd
//! process of its namespace is an unreaped child of ours, so a shim that
//! blocked on init alone would hang for ever.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use crate::exit_record::Status;
use crate::sys;

/// A child that is dead and not yet reaped.
///
/// What must be read while its cgroup still counts it as a member is read
/// between [`next`] and [`reap`].
#[derive(Debug)]
#[must_use = "a dead child that is not reaped keeps its PID namespace alive"]
pub struct Dead {
    pid: Pid,
}

impl Dead {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

/// The next dead child, if there is one; it stays a zombie until [`reap`].
///
/// # Errors
/// waitid(2)'s. Having no children is not an error.
pub fn next() -> io::Result<Option<Dead>> {
    let pid = sys::dead_child()?;
    Ok(pid.and_then(Pid::from_raw).map(|pid| Dead { pid }))
}

/// The children of this process' main thread, dead or alive.
#[must_use]
pub fn children() -> Vec<i32> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/self/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Reaps it.
///
/// # Errors
/// waitpid(2)'s.
pub fn reap(dead: Dead) -> Result<Status, Errno> {
    loop {
        match rustix::process::waitpid(Some(dead.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(Status::from_wait(status.as_raw())),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
