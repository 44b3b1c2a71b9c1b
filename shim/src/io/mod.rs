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

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use longshore_proto::shim::v1;

pub use error::StdioError;

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

/// A container's stdio, from before create to after exit.
#[derive(Debug)]
pub struct Stdio {}

impl Stdio {
    /// Opens the log and makes pipes, or a console socket in `console_dir`
    /// (a directory on a tmpfs, of the container's own).
    ///
    /// `owner`: user and group of the container's process, as the host sees
    /// them (mapped, with a user namespace). They own the pipes or the pty, so
    /// that a process that is not root can open /dev/stdout again.
    ///
    /// # Errors
    /// The file, or the call.
    pub fn prepare(
        _config: &v1::Stdio,
        _owner: (u32, u32),
        _console_dir: &Path,
    ) -> Result<Self, StdioError> {
        Err(StdioError::Ended)
    }

    /// The container's ends, for the worker. None once the log thread runs.
    #[must_use]
    pub fn child_ends(&self) -> Option<ChildEnds<'_>> {
        None
    }

    /// To be called once the worker is done: closes the child's ends, takes
    /// the pty master from the console socket, chowns the pty, and starts the
    /// thread that owns the container's output from then on.
    ///
    /// # Errors
    /// No master came, or the thread could not be started.
    pub fn start_log_thread(&mut self) -> Result<(), StdioError> {
        Err(StdioError::Ended)
    }

    /// Readable (level-triggered) when [`Stdio::take_events`] has something.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What has happened since the last call. Never blocks.
    pub fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Asks for the log to be opened again. The answer is an
    /// [`Event::LogReopened`] with this ticket: the new file exists by then
    /// and no byte goes to the old one any more.
    ///
    /// # Errors
    /// [`StdioError::Ended`] after finish, [`StdioError::Busy`] with too many queued.
    pub fn reopen_log(&mut self) -> Result<Ticket, StdioError> {
        Err(StdioError::Ended)
    }

    /// Connects a client. It gets what the container writes from now on.
    ///
    /// # Errors
    /// [`StdioError::Ended`] after finish, [`StdioError::Busy`] with too many queued.
    pub fn attach(&mut self, _client: AttachDescriptors) -> Result<(), StdioError> {
        Err(StdioError::Ended)
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// No terminal, a size of 0 or above 65535, or the ioctl.
    pub fn resize(&self, _columns: u32, _rows: u32) -> Result<(), StdioError> {
        Err(StdioError::NoTerminal)
    }

    /// To be called when init has ended: takes what is still in the pipes,
    /// ends the log and the clients. The answer is [`Event::Finished`], at
    /// the latest after `deadline`, however stalled the log's disk is.
    pub fn finish(&mut self, _deadline: Duration) {}
}

/// Sets the size of an exec's terminal by its master.
///
/// # Errors
/// A size of 0 or above 65535, or the ioctl.
pub fn resize_pty(_master: BorrowedFd<'_>, columns: u32, rows: u32) -> Result<(), StdioError> {
    Err(StdioError::TerminalSize { columns, rows })
}
