//! The connections of the daemon, and what waits to be sent on them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use longshore_proto::shim::v1::{Event, Packet, Response, event, packet, response};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::link::{self, Received};

/// Packets that wait for a client that doesn't read, at most.
const OUTBOX_MAX: usize = 256;
/// The first token of a connection; those below are the driver's own.
pub(super) const FIRST_TOKEN: u64 = 16;

/// Who asked, to be answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) link: u64,
    pub(super) seq: u64,
}

#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    outbox: VecDeque<(Packet, Vec<OwnedFd>)>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Links {
    open: BTreeMap<u64, Link>,
    next: u64,
}

impl Links {
    pub(super) fn new() -> Links {
        Links {
            open: BTreeMap::new(),
            next: FIRST_TOKEN,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes a waiting connection of this user. One that can't be looked after
    /// is closed.
    ///
    /// # Errors
    /// accept4(2)'s.
    pub(super) fn accept(&mut self, listener: &OwnedFd, epoll: &OwnedFd) -> Result<(), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let ours = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        let token = self.next;
        let data = epoll::EventData::new_u64(token);
        if !ours || epoll::add(epoll, &socket, data, epoll::EventFlags::IN).is_err() {
            return Ok(());
        }
        self.next += 1;
        self.open.insert(
            token,
            Link {
                socket,
                outbox: VecDeque::new(),
            },
        );
        Ok(())
    }

    /// The next packet of a connection. `Err(())`: the connection has ended.
    pub(super) fn receive(&mut self, token: u64) -> Result<Option<Received>, ()> {
        let Some(link) = self.open.get(&token) else {
            return Ok(None);
        };
        match link::recv(link.socket.as_fd()) {
            Ok(received) => Ok(Some(received)),
            Err(link::LinkError::NotReady) => Ok(None),
            Err(_) => Err(()),
        }
    }

    /// Forgets a connection.
    pub(super) fn close(&mut self, token: u64) {
        self.open.remove(&token);
    }

    pub(super) fn respond(&mut self, to: Asker, result: response::Result, fds: Vec<OwnedFd>) {
        let response = Response {
            seq: to.seq,
            result: Some(result),
        };
        let packet = Packet {
            kind: Some(packet::Kind::Response(response)),
        };
        if let Some(link) = self.open.get_mut(&to.link) {
            link.outbox.push_back((packet, fds));
        }
    }

    pub(super) fn broadcast(&mut self, event: &event::Kind) {
        for link in self.open.values_mut() {
            let event = Event {
                kind: Some(event.clone()),
            };
            link.outbox.push_back((
                Packet {
                    kind: Some(packet::Kind::Event(event)),
                },
                Vec::new(),
            ));
        }
    }

    /// Sends what can be sent, and returns the connections that are to be
    /// dropped: broken ones, and those whose client doesn't read.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> Vec<u64> {
        let mut broken = Vec::new();
        for (token, link) in &mut self.open {
            let waits = !link.outbox.is_empty();
            if !waits {
                continue;
            }
            if link.flush().is_err() || link.outbox.len() > OUTBOX_MAX {
                broken.push(*token);
                continue;
            }
            let mut flags = epoll::EventFlags::IN;
            if !link.outbox.is_empty() {
                flags |= epoll::EventFlags::OUT;
            }
            let data = epoll::EventData::new_u64(*token);
            if epoll::modify(epoll, &link.socket, data, flags).is_err() {
                broken.push(*token);
            }
        }
        broken
    }

    /// Whether everything is on its way.
    pub(super) fn idle(&self) -> bool {
        self.open.values().all(|link| link.outbox.is_empty())
    }
}

impl Link {
    fn flush(&mut self) -> Result<(), link::LinkError> {
        while let Some((packet, fds)) = self.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match link::send(self.socket.as_fd(), packet, &fds) {
                Ok(()) => {
                    self.outbox.pop_front();
                }
                Err(link::LinkError::NotReady) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
