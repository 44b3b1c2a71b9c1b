//! A connected SOCK_SEQPACKET socket that tokio watches.

#![allow(
    unsafe_code,
    reason = "tokio's AsyncFd takes any AsRawFd and leaves its validity to the caller"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The socket. Non-blocking.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// To be called within a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: an OwnedFd is open and stays the same for as long as it is
        // owned, which is by the AsyncFd from here on.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    pub(super) async fn read<T>(
        &self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0
            .async_io(Interest::READABLE, |socket| attempt(socket.as_fd()))
            .await
    }

    pub(super) async fn write<T>(
        &self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0
            .async_io(Interest::WRITABLE, |socket| attempt(socket.as_fd()))
            .await
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
