//! Sets a link up over rtnetlink (`rtnetlink(7)`), for `lo` of a new namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const IFF_UP: u32 = 1;
/// `lo` is the first link of every network namespace.
const LO: u32 = 1;

/// Sets `lo` of the calling thread's network namespace up.
///
/// # Errors
/// The errno that the kernel answers.
pub(super) fn lo_up() -> io::Result<()> {
    let link: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(link.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(link.as_raw_fd(), &set_up(LO), MsgFlags::empty())?;
    let mut answer = [0_u8; 4096];
    let len = recv(link.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(answer.get(..len).unwrap_or_default())
}

/// `struct nlmsghdr` and `struct ifinfomsg`: flags and their mask are IFF_UP.
fn set_up(index: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence and port: one question, one answer
    message.extend([0; 4]); // AF_UNSPEC, padding, type
    message.extend(index.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message
}

/// Reads `struct nlmsgerr`: 0 is the acknowledgement.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed rtnetlink answer");
    let kind = answer
        .get(4..6)
        .and_then(|b| b.try_into().ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(malformed)?;
    if kind != NLMSG_ERROR {
        return Err(malformed());
    }
    match answer
        .get(16..20)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes)
    {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_errno_of_an_answer() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-nix::libc::EPERM).to_ne_bytes());
        let error = acknowledged(&answer).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EPERM));
        assert!(acknowledged(&answer[..10]).is_err());
        assert_eq!(set_up(1).len(), 32);
    }
}
