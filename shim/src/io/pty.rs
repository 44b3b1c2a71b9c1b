//! The container's terminal: its master comes from libcontainer over a socket.

#![allow(
    unsafe_code,
    reason = "descriptors from SCM_RIGHTS, and the window size ioctl"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
    bind, listen, recvmsg, socket,
};
use nix::unistd::{Uid, fchown};

use super::error::StdioError;
use crate::exec::open_slave;

/// The listening socket to which libcontainer sends the master.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    listener: OwnedFd,
}

/// A pty of which the shim holds both ends: as long as the slave is open
/// somewhere, reading the master reports no hang-up, whatever the container
/// closes and opens again.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

impl Console {
    pub(super) fn listen(directory: &Path) -> Result<Self, StdioError> {
        let path = directory.join("console.sock");
        let fail = |call| {
            let path = path.clone();
            move |source: io::Error| StdioError::Console { call, path, source }
        };
        let listener = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(|e| fail("socket")(e.into()))?;
        // By the directory's descriptor: an address holds 107 bytes of path.
        let directory = open_directory(directory).map_err(fail("open"))?;
        let short = format!("/proc/self/fd/{}/console.sock", directory.as_raw_fd());
        let address = UnixAddr::new(short.as_str()).map_err(|e| fail("bind")(e.into()))?;
        bind(listener.as_raw_fd(), &address).map_err(|e| fail("bind")(e.into()))?;
        listen(&listener, Backlog::MAXALLOWABLE).map_err(|e| fail("listen")(e.into()))?;
        Ok(Self { path, listener })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master, which has been sent by now, and gives the slave to
    /// the container's user (its group stays the devpts').
    pub(super) fn take(self, uid: u32) -> Result<Terminal, StdioError> {
        let fail = |call| {
            let path = self.path.clone();
            move |source: io::Error| StdioError::Console { call, path, source }
        };
        let connection = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: just accepted, and nobody else's.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(nix::Error::EAGAIN) => return Err(StdioError::NoMaster),
            Err(errno) => return Err(fail("accept4")(errno.into())),
        };
        let received = receive(&connection).map_err(|e| fail("recvmsg")(e.into()))?;
        let master = received.ok_or(StdioError::NoMaster)?;
        use std::os::fd::AsFd;
        let slave = open_slave(master.as_fd()).map_err(fail("ioctl TIOCGPTPEER"))?;
        fchown(&slave, Some(Uid::from_raw(uid)), None).map_err(|e| fail("fchown")(e.into()))?;
        Ok(Terminal { master, slave })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Its directory is the container's own and goes with it in any case.
        drop(std::fs::remove_file(&self.path));
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

/// The first descriptor of a message.
fn receive(connection: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    let mut bytes = [0_u8; 4096];
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<UnixAddr>(connection.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel made these for us just now.
            received.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(received.into_iter().next())
}

pub(super) fn resize(master: BorrowedFd<'_>, columns: u32, rows: u32) -> Result<(), StdioError> {
    let side = |value: u32| u16::try_from(value).ok().filter(|value| *value > 0);
    let (Some(ws_col), Some(ws_row)) = (side(columns), side(rows)) else {
        return Err(StdioError::TerminalSize { columns, rows });
    };
    let size = libc::winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(super::pipe::system(
            "ioctl TIOCSWINSZ",
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}
