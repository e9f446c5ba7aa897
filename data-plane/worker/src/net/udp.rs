//! UDP sockets of SIP listeners: one per shard and address, read in batches.
//!
//! Reading goes through `quinn-udp` (recvmmsg and GRO, up to 32 datagrams a call). Sending does not: it marks every datagram
//! with its own TOS octet and would overwrite the trunk's DSCP, which lives on the socket.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use trunkline_shared::dscp::Dscp;

use super::listener::Sharing;
use super::{mark, option};

/// Largest datagram SIP can arrive in.
const DATAGRAM: usize = 65_535;
/// A burst of registrations after an outage waits here rather than in the phones' retransmissions.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Binds one socket of a listener, shared with the other shards' sockets of the same listener (SO_REUSEPORT).
///
/// # Errors
/// As the system gives them: address in use, no permission, no such address.
pub fn bind(address: SocketAddr, dscp: Dscp, sharing: Sharing) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(sharing == Sharing::WithShards)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    mark::set_dscp(&socket, address, dscp)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// One bound socket of a listener.
#[derive(Debug)]
pub struct SipSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl SipSocket {
    /// Takes a socket that [`bind`] made. Must be called on the shard's runtime.
    ///
    /// # Errors
    /// When the runtime or the kernel's receive options refuse it.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<SipSocket> {
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        allow_fragments(&socket, local)?;
        Ok(SipSocket { socket, state, local })
    }

    /// The address it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Changes the mark of what is sent from now on (row 16).
    pub fn set_dscp(&self, dscp: Dscp) -> io::Result<()> {
        mark::set_dscp(&self.socket, self.local, dscp)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; others as the system gives them.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // Past the runtime: it calls a socket it has not polled yet not ready, and would lose the first datagrams.
        SockRef::from(&self.socket).send_to(bytes, &to.into()).map(drop)
    }

    /// Waits for datagrams and gives each to `handle`.
    ///
    /// # Errors
    /// Those of the system that are not about a single datagram.
    pub async fn receive(&self, batch: &mut ReceiveBatch, mut handle: impl FnMut(SocketAddr, Bytes)) -> io::Result<()> {
        self.socket.readable().await?;
        let ReceiveBatch { buffers, meta } = batch;
        let mut count = 0;
        let read = || {
            let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
            count = self.state.recv(UdpSockRef::from(&self.socket), &mut slices, meta)?;
            // Fewer than there was room for: the socket is empty, and what comes next wakes us again. To find that out by
            // another call would cost as much as the datagram.
            if count < ReceiveBatch::SIZE {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        };
        match self.socket.try_io(Interest::READABLE, read) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for (meta, buffer) in meta.iter().zip(buffers.iter()).take(count) {
            // The kernel may have joined datagrams of one sender; `stride` is the size of each.
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                handle(meta.addr, Bytes::copy_from_slice(datagram));
            }
        }
        Ok(())
    }
}

/// Lets the kernel fragment what is larger than the MTU. `quinn-udp` forbids it, as QUIC must; a SIP message over UDP may be
/// as large as a datagram (RFC 3261 §18.1.1), and would otherwise fail to leave.
fn allow_fragments(socket: &impl AsRawFd, local: SocketAddr) -> io::Result<()> {
    let (level, name, value) = if local.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    };
    option::set_int(socket, level, name, value)
}

/// Buffers of a reader, reused from call to call.
pub struct ReceiveBatch {
    buffers: [Box<[u8]>; ReceiveBatch::SIZE],
    meta: [RecvMeta; ReceiveBatch::SIZE],
}

impl ReceiveBatch {
    /// Datagrams read in one system call: enough to empty a burst, small enough that its buffers (64 KiB each) stay in
    /// the cache of a shard with a few listeners.
    const SIZE: usize = 16;
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        ReceiveBatch {
            buffers: std::array::from_fn(|_| vec![0; DATAGRAM].into_boxed_slice()),
            meta: std::array::from_fn(|_| RecvMeta::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str) -> SipSocket {
        let address = address.parse().expect("an address");
        SipSocket::from_std(bind(address, Dscp::CS3, Sharing::WithShards).expect("bound")).expect("on the runtime")
    }

    #[tokio::test]
    async fn a_burst_arrives_whole_and_what_leaves_is_marked() {
        let (receiver, sender) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        for serial in 0..40_u8 {
            sender.send(&[serial; 20], receiver.local()).expect("sent");
        }
        let mut batch = ReceiveBatch::default();
        let mut seen = Vec::new();
        while seen.len() < 40 {
            let handle = |from, bytes: Bytes| {
                assert_eq!((from, bytes.len()), (sender.local(), 20));
                seen.push(bytes[0]);
            };
            receiver.receive(&mut batch, handle).await.expect("received");
        }
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        assert_eq!(SockRef::from(&sender.socket).tos_v4().expect("read"), 24 << 2);
    }

    #[tokio::test]
    async fn a_changed_mark_replaces_the_old_one_and_none_takes_it_away() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = socket(address);
            let mark = || {
                let socket = SockRef::from(&socket.socket);
                if address.starts_with('[') {
                    socket.tclass_v6()
                } else {
                    socket.tos_v4()
                }
            };
            assert_eq!(mark().expect("read"), 24 << 2);
            socket.set_dscp(Dscp::EF).expect("marked");
            assert_eq!(mark().expect("read"), 46 << 2);
            socket.set_dscp(Dscp::SYSTEM_DEFAULT).expect("marked");
            assert_eq!(mark().expect("read"), 0);
        }
    }

    /// With "don't fragment" an INVITE with a large SDP never left an interface with an MTU of 1500.
    #[tokio::test]
    #[expect(unsafe_code, reason = "getsockopt of an option that no crate of ours offers safely")]
    async fn messages_larger_than_the_mtu_may_be_fragmented() {
        for (address, level, option, wanted) in [
            (
                "127.0.0.1:0",
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DONT,
            ),
            (
                "[::1]:0",
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DONT,
            ),
        ] {
            let socket = socket(address);
            let mut value: libc::c_int = -1;
            let mut length = size_of_val(&value) as libc::socklen_t;
            // SAFETY: the descriptor is open; the kernel writes one int into a live one.
            let read = unsafe {
                let value = (&raw mut value).cast();
                libc::getsockopt(socket.socket.as_raw_fd(), level, option, value, &raw mut length)
            };
            assert_eq!((read, value), (0, wanted), "{address}");
        }
    }

    #[tokio::test]
    async fn shards_share_an_address_and_strangers_do_not() {
        let first = socket("127.0.0.1:0");
        assert!(bind(first.local(), Dscp::CS3, Sharing::WithShards).is_ok());
        assert!(bind(first.local(), Dscp::CS3, Sharing::Alone).is_err());
    }
}
