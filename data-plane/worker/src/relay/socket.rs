//! Media sockets: bound without sharing, marked with a DSCP, and read with the mark each packet came with.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::ancillary;

/// Room for 1 s of a 50 pps stream with the kernel's book-keeping, so that a stall of the thread loses nothing.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Binds one media port. The socket does not block and reports the TOS octet of what it receives.
pub fn bind_media(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes an unbound socket one that does not block, keeps to its family, and reports the TOS octet of what it receives.
pub(super) fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_recv_tclass_v6(true)?;
    } else {
        socket.set_recv_tos_v4(true)?;
    }
    socket.set_nonblocking(true)
}

/// Marks everything the socket sends from now on; `None` leaves the system's default (RFC 2474 §3: the DSCP is the upper
/// six bits, the lower two are ECN's and stay 0).
pub fn set_dscp<'s>(socket: impl Into<SockRef<'s>>, local: SocketAddr, dscp: Option<u8>) -> io::Result<()> {
    let socket = socket.into();
    let tos = u32::from(dscp.unwrap_or(0)) << 2;
    if local.is_ipv6() {
        socket.set_tclass_v6(tos)
    } else {
        socket.set_tos_v4(tos)
    }
}

/// One received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Octets written to the buffer.
    pub length: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// Its TOS or traffic-class octet; `None` when the kernel gave none.
    pub tos: Option<u8>,
}

/// Receives one datagram with its mark. A datagram larger than `buffer` is reported with length 0: it is no RTP packet.
///
/// # Errors
/// `WouldBlock` when none is waiting; others as the system gives them.
pub fn receive(fd: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = ControlBuffer([0; 64]);
    let (length, source, control_length, flags) = receive_message(fd.as_raw_fd(), buffer, &mut control)?;
    let source = source
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Received {
        length: if flags & libc::MSG_TRUNC != 0 { 0 } else { length },
        source,
        tos: ancillary::read(&control.0[..control_length.min(64)]).tos,
    })
}

/// Ancillary data; aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct ControlBuffer([u8; 64]);

#[expect(
    unsafe_code,
    reason = "recvmsg with ancillary data; no crate of ours offers the TOS octet of a datagram safely"
)]
fn receive_message(
    fd: RawFd,
    buffer: &mut [u8],
    control: &mut ControlBuffer,
) -> io::Result<(usize, SockAddr, usize, libc::c_int)> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero msghdr is a valid one; every pointer put into it outlives the call, with its true length; the
    // kernel writes an address of `msg_namelen` octets into the storage.
    let ((received, control_length, flags), source) = unsafe {
        SockAddr::try_init(|storage, storage_length| {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = storage.cast();
            header.msg_namelen = *storage_length;
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
            let received = libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT);
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            *storage_length = header.msg_namelen;
            Ok((received as usize, header.msg_controllen as usize, header.msg_flags))
        })
    }?;
    Ok((received, source, control_length, flags))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wait_readable(socket: &UdpSocket) {
        socket.set_nonblocking(false).expect("socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("socket");
        socket.peek(&mut [0; 1]).expect("a datagram arrives");
        socket.set_nonblocking(true).expect("socket");
    }

    fn mark_arrives(host: &str) {
        let receiver = bind_media(format!("{host}:0").parse().expect("address")).expect("bind");
        let sender = bind_media(format!("{host}:0").parse().expect("address")).expect("bind");
        let local = sender.local_addr().expect("bound");
        set_dscp(&sender, local, Some(46)).expect("marked");
        sender
            .send_to(b"packet", receiver.local_addr().expect("bound"))
            .expect("sent");
        wait_readable(&receiver);
        let mut buffer = [0; 64];
        let received = receive(&receiver, &mut buffer).expect("received");
        assert_eq!(
            received,
            Received {
                length: 6,
                source: local,
                tos: Some(46 << 2)
            }
        );
        assert_eq!(
            receive(&receiver, &mut buffer).expect_err("empty").kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn the_mark_of_an_ipv4_packet_is_seen() {
        mark_arrives("127.0.0.1");
    }

    #[test]
    fn the_mark_of_an_ipv6_packet_is_seen() {
        mark_arrives("[::1]");
    }

    #[test]
    fn a_datagram_larger_than_the_buffer_is_no_packet() {
        let receiver = bind_media("127.0.0.1:0".parse().expect("address")).expect("bind");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        sender
            .send_to(&[0; 100], receiver.local_addr().expect("bound"))
            .expect("sent");
        wait_readable(&receiver);
        assert_eq!(receive(&receiver, &mut [0; 50]).expect("received").length, 0);
    }
}
