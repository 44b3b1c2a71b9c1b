//! What goes wrong with a container's stdio.

use std::io;
use std::path::PathBuf;

/// A failure to set up or to change a container's stdio. Failures to write
/// the log are none: they are counted and the container goes on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StdioError {
    #[error("open log file {}", path.display())]
    OpenLog {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("create directory {} for the log", path.display())]
    LogDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{call} for stdio")]
    System {
        call: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{call} for the console socket {}", path.display())]
    Console {
        call: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("console socket brought no pty master")]
    NoMaster,
    #[error("start the log thread")]
    Thread(#[source] io::Error),
    #[error("stdio thread is busy: too many requests are queued")]
    Busy,
    #[error("stdio has ended")]
    Ended,
    #[error("container has no terminal")]
    NoTerminal,
    #[error("terminal size {columns}x{rows} is out of range")]
    TerminalSize { columns: u32, rows: u32 },
}

impl StdioError {
    /// errno(3) of the failing call, 0 where there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let (Self::OpenLog { source, .. }
        | Self::LogDirectory { source, .. }
        | Self::System { source, .. }
        | Self::Console { source, .. }
        | Self::Thread(source)) = self
        else {
            return 0;
        };
        source.raw_os_error().unwrap_or(0)
    }
}
