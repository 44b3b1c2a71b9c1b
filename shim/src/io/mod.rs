//! Stdio of the container: pipes or a pty, the CRI log, attached clients.
//!
//! ```text
//!             main thread (driver)                 log thread (after create)
//!  prepare ─▶ child's ends to the worker
//!  start_log_thread ─────────────────────────────▶ container ──▶ log file
//!  reopen_log / attach / finish ─── commands ────▶           └─▶ attached clients
//!  events() readable ◀───────────── answers ──────           ◀── their stdin
//! ```
//!
//! Nothing of the main thread's side blocks: a stalled log disk delays an
//! answer, never a kill, an exec or a reap.

mod error;
mod fanout;
pub mod log;
mod pipe;
mod pty;
mod stdio;
mod thread;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

pub use error::StdioError;
pub use stdio::Stdio;

/// What the worker gives to libcontainer.
#[derive(Debug)]
pub enum ChildEnds<'a> {
    /// Without a terminal: to be duplicated onto the init's 0, 1 and 2.
    Pipes {
        /// A pipe, or /dev/null where the container has no stdin.
        stdin: BorrowedFd<'a>,
        /// A pipe.
        stdout: BorrowedFd<'a>,
        /// A pipe.
        stderr: BorrowedFd<'a>,
    },
    /// With a terminal: the path for `with_console_socket`.
    Console(&'a Path),
}

/// Client's descriptors of an attach.
#[derive(Debug, Default)]
pub struct AttachDescriptors {
    /// Read by the shim.
    pub stdin: Option<OwnedFd>,
    /// Written by the shim, lossily.
    pub stdout: Option<OwnedFd>,
    /// Written by the shim, lossily.
    pub stderr: Option<OwnedFd>,
}

/// Identifies a request to reopen the log in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What the log thread has done.
#[derive(Debug)]
pub enum Event {
    /// The answer to [`Stdio::reopen_log`].
    LogReopened {
        /// As returned by `reopen_log`.
        ticket: Ticket,
        /// On an error the old file goes on being written.
        result: Result<(), StdioError>,
    },
    /// The answer to [`Stdio::finish`]: the log took what the container had
    /// written, or the time was up. Comes exactly once.
    Finished {
        /// Whether everything was taken in time.
        complete: bool,
    },
}

/// Sets the size of an exec's terminal by its master.
///
/// # Errors
/// A size of 0 or above 65535, or the ioctl.
pub fn resize_pty(master: BorrowedFd<'_>, columns: u32, rows: u32) -> Result<(), StdioError> {
    pty::resize(master, columns, rows)
}
