//! Attached clients: copies of the container's output to each, and what they
//! type to the container.
//!
//! The container waits for nobody: a client that doesn't read loses what its
//! own pipe can't hold.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::unistd::{read, write};

use super::AttachDescriptors;
use super::log::Stream;
use super::pipe::set_nonblocking;

/// What the kernel holds for a client that doesn't read for a while.
const CLIENT_PIPE_BYTES: i32 = 1 << 20;
/// Epoll data of clients are from here on; below are the log thread's own.
pub(super) const FIRST_TOKEN: u64 = 16;
/// Epoll data of the container's stdin.
pub(super) const STDIN_TOKEN: u64 = 15;

/// One descriptor of a client.
#[derive(Debug)]
struct End {
    token: u64,
    kind: Kind,
    fd: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Input,
    Output(Stream),
}

/// All clients.
#[derive(Debug)]
pub(super) struct Fanout {
    epoll: Rc<Epoll>,
    ends: Vec<End>,
    next_token: u64,
    stdin: Option<Stdin>,
    stdin_once: bool,
}

/// The way to the container's stdin.
#[derive(Debug)]
struct Stdin {
    fd: OwnedFd,
    /// What the container has not taken yet. Clients are not read meanwhile.
    pending: Vec<u8>,
    /// Close when everything was taken.
    closing: bool,
}

impl Fanout {
    pub(super) fn new(epoll: Rc<Epoll>, stdin: Option<OwnedFd>, stdin_once: bool) -> Self {
        let stdin = stdin.map(|fd| Stdin {
            fd,
            pending: Vec::new(),
            closing: false,
        });
        Self {
            epoll,
            ends: Vec::new(),
            next_token: FIRST_TOKEN,
            stdin,
            stdin_once,
        }
    }

    /// Takes a client. A descriptor that can't be watched is closed, which
    /// the client sees as the end of that stream.
    pub(super) fn attach(&mut self, client: AttachDescriptors) {
        let kinds = [
            (client.stdin, Kind::Input),
            (client.stdout, Kind::Output(Stream::Stdout)),
            (client.stderr, Kind::Output(Stream::Stderr)),
        ];
        for (fd, kind) in kinds {
            let Some(fd) = fd else { continue };
            if kind == Kind::Input && self.stdin.is_none() || set_nonblocking(&fd).is_err() {
                continue;
            }
            if kind != Kind::Input {
                // Best effort: a socket has a size of its own.
                fcntl(&fd, FcntlArg::F_SETPIPE_SZ(CLIENT_PIPE_BYTES)).ok();
            }
            let end = End {
                token: self.next_token,
                kind,
                fd,
            };
            self.next_token += 1;
            if self.watch(&end).is_ok() {
                self.ends.push(end);
            }
        }
    }

    fn watch(&self, end: &End) -> nix::Result<()> {
        let flags = match end.kind {
            Kind::Input if self.is_full() => return Ok(()),
            Kind::Input => EpollFlags::EPOLLIN,
            // Only its end.
            Kind::Output(_) => EpollFlags::empty(),
        };
        self.epoll.add(&end.fd, EpollEvent::new(flags, end.token))
    }

    fn is_full(&self) -> bool {
        self.stdin
            .as_ref()
            .is_some_and(|stdin| !stdin.pending.is_empty())
    }

    /// Copies output to those who want it.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let mut gone = Vec::new();
        for end in self
            .ends
            .iter()
            .filter(|end| end.kind == Kind::Output(stream))
        {
            match write(&end.fd, bytes) {
                // A short write and a full pipe: the client's loss.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => gone.push(end.token),
            }
        }
        if !gone.is_empty() {
            self.close(|end| gone.contains(&end.token));
        }
    }

    /// By name and not by closing alone: the daemon may still have a copy of
    /// the descriptor, and epoll would go on to report it.
    fn close(&mut self, which: impl Fn(&End) -> bool) {
        for end in self.ends.iter().filter(|end| which(end)) {
            // Fails only where it is not watched just now.
            self.epoll.delete(&end.fd).ok();
        }
        self.ends.retain(|end| !which(end));
    }

    /// The container's stream has ended.
    pub(super) fn end_output(&mut self, stream: Stream) {
        self.close(|end| end.kind == Kind::Output(stream));
    }

    /// A client's descriptor is ready.
    pub(super) fn ready(&mut self, token: u64, buffer: &mut [u8]) {
        let Some(end) = self.ends.iter().find(|end| end.token == token) else {
            return;
        };
        if end.kind != Kind::Input {
            // The reader is gone.
            self.close(|end| end.token == token);
            return;
        }
        match read(&end.fd, buffer) {
            Ok(count) if count > 0 => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.feed(bytes);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(_) | Err(_) => {
                self.close(|end| end.token == token);
                if self.stdin_once {
                    self.close_stdin();
                }
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let Some(stdin) = &mut self.stdin else { return };
        stdin.pending.extend_from_slice(bytes);
        self.flush();
        if self.is_full() {
            self.pause();
        }
    }

    /// The container can take more, or has closed its stdin.
    pub(super) fn stdin_ready(&mut self) {
        self.flush();
        if !self.is_full() {
            self.resume();
        }
    }

    fn flush(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        let ended = match write(&stdin.fd, &stdin.pending) {
            Ok(count) => {
                stdin.pending.drain(..count.min(stdin.pending.len()));
                stdin.closing && stdin.pending.is_empty()
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
        };
        if ended {
            self.drop_stdin();
        }
    }

    fn close_stdin(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.closing = true;
            if stdin.pending.is_empty() {
                self.drop_stdin();
            } else {
                self.flush();
            }
        }
    }

    /// Nobody reads any more: neither are the clients read.
    fn drop_stdin(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            // Watched only while there is something for it.
            self.epoll.delete(&stdin.fd).ok();
        }
        self.close(|end| end.kind == Kind::Input);
    }

    /// Removed and not only disarmed: a hang-up would be reported all the same.
    fn pause(&self) {
        for end in self.ends.iter().filter(|end| end.kind == Kind::Input) {
            // Only one that is not watched fails.
            self.epoll.delete(&end.fd).ok();
        }
        if let Some(stdin) = &self.stdin {
            let event = EpollEvent::new(EpollFlags::EPOLLOUT, STDIN_TOKEN);
            self.epoll.add(&stdin.fd, event).ok();
        }
    }

    fn resume(&self) {
        if let Some(stdin) = &self.stdin {
            self.epoll.delete(&stdin.fd).ok();
        }
        for end in self.ends.iter().filter(|end| end.kind == Kind::Input) {
            // Only one that is watched already fails.
            self.watch(end).ok();
        }
    }
}
