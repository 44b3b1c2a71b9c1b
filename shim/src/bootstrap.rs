//! From a process that the daemon started to one that serves: a session of
//! its own, the shims' cgroup, nothing inherited but the socket.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::driver::{self, Config};
use crate::sys;

/// The descriptor on which a mode finds its socket.
pub const SOCKET: i32 = 3;
/// A shim is the last to be sacrificed but for the daemon.
const OOM_SCORE_ADJ: &str = "-998";

/// The arguments of `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// Container id.
    pub id: String,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<PathBuf>,
    /// How long to stay without container and connection.
    pub linger: Duration,
    /// Keep stderr for complaints, instead of /dev/null.
    pub log_stderr: bool,
}

/// Why a mode could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A call to the kernel, or a file.
    #[error("{operation}")]
    System {
        /// What was tried, on what.
        operation: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The loop.
    #[error("serve")]
    Serve(#[source] driver::DriverError),
}

pub(crate) fn system<E: Into<io::Error>>(
    operation: impl Into<String>,
) -> impl FnOnce(E) -> BootstrapError {
    let operation = operation.into();
    move |source| BootstrapError::System {
        operation,
        source: source.into(),
    }
}

/// Mode `serve`: until the container was collected.
///
/// # Errors
/// The step that failed; the daemon sees the socket close.
pub fn serve(options: ServeOptions) -> Result<(), BootstrapError> {
    // LISTEN_FDS of a socket-activated daemon would make libcontainer leave
    // descriptors open in the container.
    sys::clear_environment().map_err(system("clear environment"))?;
    sys::set_name(c"longshore-shim");
    // Fails for a process group leader, which has what is wanted.
    rustix::process::setsid().ok();
    rustix::process::chdir("/").map_err(system("chdir /"))?;
    join(&options.cgroups)?;
    // Without CAP_SYS_RESOURCE it keeps what it has.
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).ok();
    let listener = sys::inherited(SOCKET).map_err(system("take over descriptor 3"))?;
    null_stdio(options.log_stderr)?;
    sys::close_all_but(&[0, 1, 2, SOCKET]).map_err(system("close descriptors"))?;
    // Orphans of a container in the host's PID namespace become our children,
    // and are reaped even where PID 1 doesn't.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map_err(system("PR_SET_CHILD_SUBREAPER"))?;
    block_signals()?;
    let config = Config {
        id: options.id,
        listener,
        linger: options.linger,
    };
    driver::serve(config).map_err(BootstrapError::Serve)
}

/// Joins cgroups by their `cgroup.procs` files.
///
/// # Errors
/// The file that could not be written.
pub fn join(cgroups: &[PathBuf]) -> Result<(), BootstrapError> {
    for file in cgroups {
        fs::write(file, "0").map_err(system(format!("write {}", file.display())))?;
    }
    Ok(())
}

/// Everything but faults is blocked: SIGCHLD comes by signalfd, and nothing
/// else may end a shim whose container lives.
fn block_signals() -> Result<(), BootstrapError> {
    let mut mask = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        mask.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(system("sigprocmask"))
}

fn null_stdio(keep_stderr: bool) -> Result<(), BootstrapError> {
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(system("open /dev/null"))?;
    if null.as_raw_fd() > 2 {
        sys::duplicate(&null, 0).map_err(system("dup2"))?;
        sys::duplicate(&null, 1).map_err(system("dup2"))?;
        if !keep_stderr {
            sys::duplicate(&null, 2).map_err(system("dup2"))?;
        }
    } else {
        // The lowest were closed: what was opened stays there.
        std::mem::forget(null);
    }
    Ok(())
}
