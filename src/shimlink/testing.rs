//! A shim that a test plays.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use longshore_proto::shim::v1::{self, packet, request, response};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::socket::Socket;
use super::wire::{self, DATAGRAM_MAX};

pub(super) fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// The shim's end of a connection.
#[derive(Debug)]
pub(super) struct Played(Socket);

impl Played {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(Socket::new(socket).unwrap())
    }

    /// The next request, or None when the daemon has gone.
    pub(super) async fn next(&self) -> Option<(u64, request::Op, Vec<OwnedFd>)> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let received = self
            .0
            .read(|socket| wire::receive(socket, &mut buffer))
            .await;
        match received {
            Ok(wire::Received { packet, fds }) => match packet.kind {
                Some(packet::Kind::Request(v1::Request { seq, op: Some(op) })) => {
                    Some((seq, op, fds))
                }
                other => panic!("no request: {other:?}"),
            },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn answer(&self, seq: u64, result: response::Result, fds: &[BorrowedFd<'_>]) {
        let response = v1::Response {
            seq,
            result: Some(result),
        };
        self.send(packet::Kind::Response(response), fds);
    }

    pub(super) fn event(&self, event: v1::event::Kind) {
        self.send(packet::Kind::Event(v1::Event { kind: Some(event) }), &[]);
    }

    fn send(&self, kind: packet::Kind, fds: &[BorrowedFd<'_>]) {
        let packet = v1::Packet { kind: Some(kind) };
        wire::send(self.0.as_fd(), &packet, fds).unwrap();
    }
}
