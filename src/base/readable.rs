//! Waits for a descriptor to become readable: a pidfd whose process ends, an
//! inotify descriptor with events.
#![allow(
    unsafe_code,
    reason = "tokio's AsyncFd takes any AsRawFd and leaves its validity to the caller"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owned descriptor, registered with the runtime.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers `fd`. Within a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor can't be polled (`epoll_ctl(2)`).
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open, answers the same descriptor each time and
        // is closed by nobody else; AsyncFd owns it from here on.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns once the descriptor is readable, at once if it stays so.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_when_there_is_something_to_read() {
        let (reader, writer) = io::pipe().unwrap();
        let readable = Readable::new(reader.into()).unwrap();
        let soon = std::time::Duration::from_millis(20);
        assert!(
            tokio::time::timeout(soon, readable.readable())
                .await
                .is_err()
        );
        drop(writer);
        readable.readable().await.unwrap();
    }
}
