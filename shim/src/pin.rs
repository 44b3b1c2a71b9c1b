//! Mode `pin`: makes the namespaces of a pod with a user namespace, and lives
//! until the daemon has bind-mounted them. A multi-threaded daemon can't
//! unshare a user namespace itself, and a namespace needs a process that has
//! it to be pinned through `/proc/<pid>/ns`.
//!
//! The order matters. With the user namespace alone first, its maps written
//! and id 0 taken, the others are made by its root: unshared together, the
//! root of the mqueue file system would belong to nobody.
//!
//! Descriptor 3 is a SOCK_SEQPACKET socket; every message is one byte:
//!
//! | from   | byte | meaning                                                |
//! |--------|------|--------------------------------------------------------|
//! | pin    | `U`  | the user namespace is there: write my maps             |
//! | daemon | `M`  | the maps are written                                   |
//! | pin    | `N`  | all namespaces are there: `/proc/<pid>/ns/*` may be bound |
//! | daemon | `X`  | bound: end (so does closing the socket)                |
//!
//! A failure is the byte `E`, followed by errno as a native i32 and the name
//! of the step in UTF-8; then pin ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{RecvFlags, SendFlags};

use crate::bootstrap::{BootstrapError, SOCKET, system};
use crate::sys;

/// The user namespace waits for its maps.
pub const USER_READY: u8 = b'U';
/// The maps are written.
pub const MAPPED: u8 = b'M';
/// All namespaces are there.
pub const READY: u8 = b'N';
/// The namespaces are bound.
pub const END: u8 = b'X';
/// A step failed.
pub const FAILED: u8 = b'E';

/// Which namespaces to make inside the user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinOptions {
    /// A network namespace.
    pub net: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
}

/// The mode.
///
/// # Errors
/// The step that failed; the daemon was told.
pub fn run(options: PinOptions) -> Result<(), BootstrapError> {
    let socket = sys::inherited(SOCKET).map_err(system("take over descriptor 3"))?;
    let outcome = pin(&socket, options);
    if let Err(BootstrapError::System { operation, source }) = &outcome {
        let mut message = vec![FAILED];
        message.extend(source.raw_os_error().unwrap_or(0).to_ne_bytes());
        message.extend(operation.as_bytes());
        rustix::net::send(&socket, &message, SendFlags::NOSIGNAL).ok();
    }
    outcome
}

fn pin(socket: &OwnedFd, options: PinOptions) -> Result<(), BootstrapError> {
    sys::close_all_but(&[0, 1, 2, SOCKET]).map_err(system("close descriptors"))?;
    sys::set_name(c"longshore-pin");
    unshare(CloneFlags::CLONE_NEWUSER).map_err(system("unshare user namespace"))?;
    tell(socket, USER_READY)?;
    if !expect(socket, MAPPED)? {
        return Ok(());
    }
    nix::unistd::setresgid(0.into(), 0.into(), 0.into()).map_err(system("setresgid"))?;
    nix::unistd::setresuid(0.into(), 0.into(), 0.into()).map_err(system("setresuid"))?;
    nix::unistd::setgroups(&[]).map_err(system("setgroups"))?;
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, options.net);
    flags.set(CloneFlags::CLONE_NEWIPC, options.ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, options.uts);
    unshare(flags).map_err(system("unshare namespaces"))?;
    // Changing ids made the process undumpable, and /proc/<pid>/ns root's.
    sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).map_err(system("PR_SET_DUMPABLE"))?;
    tell(socket, READY)?;
    expect(socket, END)?;
    Ok(())
}

fn tell(socket: &OwnedFd, byte: u8) -> Result<(), BootstrapError> {
    rustix::net::send(socket, &[byte], SendFlags::NOSIGNAL)
        .map_err(system("send"))
        .map(drop)
}

/// Waits for `byte`. `false`: the daemon has gone.
fn expect(socket: &OwnedFd, byte: u8) -> Result<bool, BootstrapError> {
    let mut buffer = [0_u8; 16];
    loop {
        match rustix::net::recv(socket.as_fd(), &mut buffer, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(system("receive")(errno)),
            Ok((_, 0)) => return Ok(false),
            Ok((_, 1)) if buffer.first() == Some(&byte) => return Ok(true),
            Ok(_) => {
                return Err(system("receive")(io::Error::from_raw_os_error(
                    libc::EPROTO,
                )));
            }
        }
    }
}
