//! A pty in the container's own devpts.

#![allow(unsafe_code, reason = "ioctls that nix has no wrapper for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{fstat, major, minor};
use nix::sys::statfs::fstatfs;

use super::error::{ExecError, Step};

/// Both ends of a pty.
#[derive(Debug)]
pub(super) struct Pty {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Allocates a pty below `root`, the container's root directory.
///
/// The container decides what lies at /dev/pts/ptmx: no link is followed, and
/// what was opened must be the multiplexer of a devpts. (/dev/ptmx is a link
/// in most containers, so it is not used.)
pub(super) fn allocate(root: BorrowedFd<'_>) -> Result<Pty, ExecError> {
    let fail = |source: io::Error| ExecError::new(Step::Pty, source);
    let how = OpenHow::new()
        .flags(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    let master = openat2(root, "dev/pts/ptmx", how).map_err(|errno| fail(errno.into()))?;
    verify_multiplexer(&master).map_err(fail)?;
    set_blocking(&master).map_err(|errno| fail(errno.into()))?;
    let slave = unlock_and_open_slave(master.as_fd()).map_err(fail)?;
    Ok(Pty { master, slave })
}

fn set_blocking(fd: &OwnedFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map(|_| ())
}

fn verify_multiplexer(fd: &OwnedFd) -> io::Result<()> {
    let stat = fstat(fd)?;
    let is_multiplexer = fstatfs(fd)?.filesystem_type().0 == libc::DEVPTS_SUPER_MAGIC
        && stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2);
    if is_multiplexer {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}

/// The slave of a master, by TIOCGPTPEER: no path is involved.
pub(crate) fn unlock_and_open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(io::Error::last_os_error());
    }
    open_slave(master)
}

/// The slave of a master that is unlocked already.
pub(crate) fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}
