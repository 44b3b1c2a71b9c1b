//! One `Packet` a datagram over SOCK_SEQPACKET, descriptors beside it by
//! SCM_RIGHTS. A body over [`INLINE_MAX`] travels in a sealed memfd, which is
//! then the last descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use longshore_proto::shim::v1::{Envelope, Packet};
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Protocol revision that this code speaks.
pub const REVISION: u32 = 1;
/// Longest encoded packet in bytes that travels in the datagram itself.
pub const INLINE_MAX: usize = 64 * 1024;
/// Longest encoded packet in bytes that is accepted at all.
pub const BODY_MAX: u64 = 16 * 1024 * 1024;
/// Most descriptors beside one datagram.
pub const FDS_MAX: usize = 16;

/// Why a packet could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer closed its end.
    #[error("connection closed by the peer")]
    Closed,
    /// Not now: nothing to read, or the peer does not read.
    #[error("connection not ready")]
    NotReady,
    /// The socket failed.
    #[error("{operation} on the shim connection")]
    Socket {
        /// System call.
        operation: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// The datagram is no `Envelope`, or its body no `Packet`.
    #[error("decode packet")]
    Decode(#[source] prost::DecodeError),
    /// The datagram breaks the rules of the transport.
    #[error("malformed datagram: {0}")]
    Malformed(&'static str),
}

/// A packet with the descriptors that came beside it.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub packet: Packet,
    /// In the order in which they were sent; a body's memfd is already gone.
    pub fds: Vec<OwnedFd>,
}

fn socket(operation: &'static str) -> impl Fn(Errno) -> LinkError {
    move |source| match source {
        Errno::AGAIN => LinkError::NotReady,
        Errno::PIPE | Errno::CONNRESET => LinkError::Closed,
        source => LinkError::Socket { operation, source },
    }
}

/// Receives one packet without waiting.
///
/// # Errors
/// [`LinkError::NotReady`] when there is none, [`LinkError::Closed`] at the end. After
/// any other error but `NotReady` the connection is to be dropped.
pub fn recv(sock: BorrowedFd<'_>) -> Result<Received, LinkError> {
    let (_, size) = rustix::net::recv(
        sock,
        &mut [0u8; 0][..],
        RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT,
    )
    .map_err(socket("recv"))?;
    if size == 0 {
        return Err(LinkError::Closed);
    }
    if size > INLINE_MAX + 64 {
        return Err(LinkError::Malformed("datagram too long"));
    }
    let mut body = vec![0; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        sock,
        &mut [IoSliceMut::new(&mut body)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .map_err(socket("recvmsg"))?;
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(LinkError::Malformed("too many descriptors"));
    }
    let envelope = Envelope::decode(body.as_slice()).map_err(LinkError::Decode)?;
    let packet = if envelope.memfd_size == 0 {
        Packet::decode(envelope.inline.as_slice())
    } else {
        let memfd = fds
            .pop()
            .ok_or(LinkError::Malformed("body without a memfd"))?;
        Packet::decode(read_memfd(&memfd, envelope.memfd_size)?.as_slice())
    }
    .map_err(LinkError::Decode)?;
    Ok(Received { packet, fds })
}

fn read_memfd(memfd: &OwnedFd, size: u64) -> Result<Vec<u8>, LinkError> {
    if size > BODY_MAX {
        return Err(LinkError::Malformed("body too long"));
    }
    // Unsealed, the sender could change it below the decoder's feet.
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(socket("F_GET_SEALS"))?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
        return Err(LinkError::Malformed("body is not sealed"));
    }
    let size = usize::try_from(size).map_err(|_| LinkError::Malformed("body too long"))?;
    let mut body = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = body.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(memfd, rest, filled as u64).map_err(socket("pread"))? {
            0 => return Err(LinkError::Malformed("body is shorter than announced")),
            n => filled += n,
        }
    }
    Ok(body)
}

/// Sends one packet without waiting.
///
/// # Errors
/// [`LinkError::NotReady`] when the peer's queue is full, [`LinkError::Closed`] when it
/// is gone.
pub fn send(
    sock: BorrowedFd<'_>,
    packet: &Packet,
    fds: &[BorrowedFd<'_>],
) -> Result<(), LinkError> {
    let body = packet.encode_to_vec();
    let memfd;
    let mut all = fds.to_vec();
    let envelope = if body.len() > INLINE_MAX {
        memfd = sealed(&body)?;
        all.push(memfd.as_fd());
        Envelope {
            revision: REVISION,
            inline: Vec::new(),
            memfd_size: body.len() as u64,
        }
    } else {
        Envelope {
            revision: REVISION,
            inline: body,
            memfd_size: 0,
        }
    };
    if all.len() > FDS_MAX {
        return Err(LinkError::Malformed("too many descriptors"));
    }
    send_bytes(sock, &envelope.encode_to_vec(), &all)
}

/// Sends one datagram of plain bytes, for the protocols below a `Packet`.
///
/// # Errors
/// As [`send`].
pub fn send_bytes(
    sock: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), LinkError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(LinkError::Malformed("too many descriptors"));
    }
    rustix::net::sendmsg(
        sock,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
    .map_err(socket("sendmsg"))
    .map(drop)
}

fn sealed(body: &[u8]) -> Result<OwnedFd, LinkError> {
    let memfd = rustix::fs::memfd_create(
        c"longshore-packet",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .map_err(socket("memfd_create"))?;
    let mut rest = body;
    while !rest.is_empty() {
        let n = rustix::io::write(&memfd, rest).map_err(socket("write"))?;
        rest = rest.get(n..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(
        &memfd,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )
    .map_err(socket("F_ADD_SEALS"))?;
    Ok(memfd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_proto::shim::v1::{Create, Request, packet, request};
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn create(spec: Vec<u8>) -> Packet {
        let op = Some(request::Op::Create(Create {
            spec,
            ..Default::default()
        }));
        Packet {
            kind: Some(packet::Kind::Request(Request { seq: 7, op })),
        }
    }

    #[test]
    fn small_and_large_bodies_arrive_with_their_descriptors() {
        let (a, b) = pair();
        for size in [0, 1, INLINE_MAX - 100, INLINE_MAX, INLINE_MAX + 1, 1 << 20] {
            let packet = create(vec![0xa5; size]);
            send(a.as_fd(), &packet, &[a.as_fd(), b.as_fd()]).unwrap();
            let got = recv(b.as_fd()).unwrap();
            assert_eq!(got.packet, packet, "{size}");
            assert_eq!(got.fds.len(), 2, "{size}: the memfd is not the caller's");
        }
    }

    #[test]
    fn nothing_to_read_is_not_an_end_and_an_end_is_not_an_error_code() {
        let (a, b) = pair();
        assert!(matches!(recv(b.as_fd()), Err(LinkError::NotReady)));
        drop(a);
        assert!(matches!(recv(b.as_fd()), Err(LinkError::Closed)));
        assert!(matches!(
            send(b.as_fd(), &create(vec![]), &[]),
            Err(LinkError::Closed)
        ));
    }

    #[test]
    fn an_unsealed_or_short_body_is_refused() {
        let (a, b) = pair();
        let memfd = rustix::fs::memfd_create(c"t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&memfd, b"abc").unwrap();
        let envelope = Envelope {
            revision: 1,
            inline: vec![],
            memfd_size: 3,
        }
        .encode_to_vec();
        send_bytes(a.as_fd(), &envelope, &[memfd.as_fd()]).unwrap();
        assert!(matches!(
            recv(b.as_fd()),
            Err(LinkError::Malformed("body is not sealed"))
        ));

        let envelope = Envelope {
            revision: 1,
            inline: vec![],
            memfd_size: 4,
        }
        .encode_to_vec();
        let memfd = sealed(b"abc").unwrap();
        send_bytes(a.as_fd(), &envelope, &[memfd.as_fd()]).unwrap();
        assert!(matches!(recv(b.as_fd()), Err(LinkError::Malformed(_))));

        let envelope = Envelope {
            revision: 1,
            inline: vec![],
            memfd_size: u64::MAX,
        };
        send_bytes(a.as_fd(), &envelope.encode_to_vec(), &[memfd.as_fd()]).unwrap();
        assert!(matches!(
            recv(b.as_fd()),
            Err(LinkError::Malformed("body too long"))
        ));
        send_bytes(a.as_fd(), b"\xff\xff\xff", &[]).unwrap();
        assert!(matches!(recv(b.as_fd()), Err(LinkError::Decode(_))));
    }

    #[test]
    fn a_peer_that_does_not_read_never_blocks_the_sender() {
        let (a, _b) = pair();
        let packet = create(vec![0; INLINE_MAX - 100]);
        let full = (0..1000).find_map(|_| send(a.as_fd(), &packet, &[]).err());
        assert!(matches!(full, Some(LinkError::NotReady)));
    }
}
