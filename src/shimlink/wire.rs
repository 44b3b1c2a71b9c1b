//! One `Packet` a datagram over SOCK_SEQPACKET, descriptors beside it; a body
//! that is too large for a datagram in a sealed memfd, the last descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use longshore_proto::shim::v1::{Envelope, Packet};
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Protocol revision that is spoken here.
const REVISION: u32 = 1;
/// Longest encoded packet in the datagram itself.
const INLINE_MAX: usize = 64 << 10;
/// Longest datagram: such a packet in its envelope.
pub(super) const DATAGRAM_MAX: usize = INLINE_MAX + 64;
/// Longest encoded packet that is accepted in a memfd.
const BODY_MAX: u64 = 16 << 20;
/// Most descriptors beside a datagram.
const FDS_MAX: usize = 16;

/// A packet with its descriptors.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) packet: Packet,
    pub(super) fds: Vec<OwnedFd>,
}

/// Sends without waiting: `WouldBlock` when the queue is full.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = packet.encode_to_vec();
    if body.len() <= INLINE_MAX {
        let envelope = Envelope {
            revision: REVISION,
            inline: body,
            memfd_size: 0,
        };
        return send_bytes(socket, &envelope.encode_to_vec(), fds);
    }
    let memfd = sealed(&body)?;
    let memfd_size = body.len() as u64;
    let envelope = Envelope {
        revision: REVISION,
        inline: Vec::new(),
        memfd_size,
    };
    let mut all = fds.to_vec();
    all.push(memfd.as_fd());
    send_bytes(socket, &envelope.encode_to_vec(), &all)
}

/// Sends one datagram of plain bytes, without waiting.
pub(super) fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

fn sealed(body: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(c"longshore-packet", flags)?);
    io::Write::write_all(&mut file, body)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Receives one datagram without waiting: its length and descriptors. Length
/// 0 is the end of the connection.
pub(super) fn receive_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(malformed("datagram was cut"));
    }
    Ok((message.bytes, fds))
}

/// Receives one packet without waiting. `UnexpectedEof` at the end.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let (length, mut fds) = receive_bytes(socket, buffer)?;
    let datagram = buffer.get(..length).unwrap_or_default();
    if datagram.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let envelope =
        Envelope::decode(datagram).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let body = if envelope.memfd_size == 0 {
        envelope.inline
    } else {
        let memfd = fds.pop().ok_or_else(|| malformed("body without a memfd"))?;
        read_memfd(&memfd, envelope.memfd_size)?
    };
    let packet = Packet::decode(body.as_slice())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Received { packet, fds })
}

fn read_memfd(memfd: &OwnedFd, size: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    if size > BODY_MAX {
        return Err(malformed("body is too long"));
    }
    // Unsealed, the sender could change it while it is decoded.
    let seals = rustix::fs::fcntl_get_seals(memfd)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
        return Err(malformed("body is not sealed"));
    }
    let size = usize::try_from(size).map_err(|_| malformed("body is too long"))?;
    let mut body = vec![0; size];
    std::fs::File::from(memfd.try_clone()?).read_exact_at(&mut body, 0)?;
    Ok(body)
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shimlink::testing::pair;
    use longshore_proto::shim::v1::{Create, Request, packet, request};

    fn create(size: usize) -> Packet {
        let op = request::Op::Create(Create {
            spec: vec![0xa5; size],
            ..Create::default()
        });
        Packet {
            kind: Some(packet::Kind::Request(Request {
                seq: 7,
                op: Some(op),
            })),
        }
    }

    #[test]
    fn small_and_large_packets_keep_their_descriptors() {
        let (one, other) = pair();
        let mut buffer = vec![0; DATAGRAM_MAX];
        for size in [0, 1, INLINE_MAX - 100, INLINE_MAX, INLINE_MAX + 1, 3 << 20] {
            let sent = create(size);
            send(one.as_fd(), &sent, &[one.as_fd(), other.as_fd()]).unwrap();
            let got = receive(other.as_fd(), &mut buffer).unwrap();
            assert!(got.packet == sent, "{size}");
            assert_eq!(got.fds.len(), 2, "{size}: the memfd is not the caller's");
        }
        assert_eq!(
            receive(other.as_fd(), &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(one);
        assert_eq!(
            receive(other.as_fd(), &mut buffer).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let (one, other) = pair();
        let mut buffer = vec![0; DATAGRAM_MAX];
        let unsealed = memfd_create(c"t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&unsealed, b"abc").unwrap();
        let sized = |memfd_size| {
            Envelope {
                revision: 1,
                inline: Vec::new(),
                memfd_size,
            }
            .encode_to_vec()
        };
        let sealed = sealed(b"abc").unwrap();
        for (bytes, fds) in [
            (b"\xff\xff\xff".to_vec(), vec![]),
            (sized(3), vec![]),
            (sized(3), vec![unsealed.as_fd()]),
            (sized(u64::MAX), vec![sealed.as_fd()]),
        ] {
            send_bytes(one.as_fd(), &bytes, &fds).unwrap();
            let error = receive(other.as_fd(), &mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        send_bytes(one.as_fd(), &sized(4), &[sealed.as_fd()]).unwrap();
        assert!(
            receive(other.as_fd(), &mut buffer).is_err(),
            "shorter than announced"
        );
    }
}
