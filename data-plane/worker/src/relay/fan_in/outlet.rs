//! Sending datagrams of many ports with one system call: headers of our own.
//!
//! A UDP socket sends from its own port only. A raw socket with the header included sends from any, and the kernel still
//! routes, resolves the neighbour, and passes the packet through its filters. A packet socket sends what a device is to send
//! (`direct`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::net::option;
use crate::relay::burst::{BURST, Burst, HEAD};
use crate::relay::wire::Leaving;

/// Packets that wait for the device: 20 ms of 5,000 streams.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// A datagram whose headers stand in its slot.
struct Ready {
    leaving: Leaving,
    start: usize,
    address: SockAddr,
}

/// A socket, and what is about to leave by it.
pub(super) struct Outlet {
    socket: Socket,
    ready: Vec<Ready>,
}

impl Outlet {
    /// A raw socket of IPv4 or IPv6: packets begin with the IP header and go to [`raw_address`].
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or CAP_NET_ADMIN for the size of the buffer.
    pub(super) fn raw(domain: Domain) -> io::Result<Outlet> {
        // IPPROTO_RAW: headers are included, and nothing is ever received.
        Self::new(Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?)
    }

    /// A packet socket: packets begin with the link's header and go to the link's address. They pass no queueing discipline.
    ///
    /// # Errors
    /// As for [`raw`](Self::raw).
    pub(super) fn packet() -> io::Result<Outlet> {
        // Protocol 0: nothing is ever received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        option::set_int(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        Self::new(socket)
    }

    fn new(socket: Socket) -> io::Result<Outlet> {
        socket.set_nonblocking(true)?;
        super::force_buffer(&socket, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        Ok(Outlet {
            socket,
            ready: Vec::with_capacity(BURST),
        })
    }

    /// Queues a packet that stands in the datagram's slot from `start` on, headers included.
    pub(super) fn queue(&mut self, leaving: Leaving, start: usize, address: SockAddr) {
        self.ready.push(Ready {
            leaving,
            start,
            address,
        });
    }

    /// Sends what is queued, each datagram once; `outcome` is told of every one.
    pub(super) fn flush(&mut self, burst: &mut Burst, mut outcome: impl FnMut(Leaving, io::Result<()>)) {
        let mut first = 0;
        while first < self.ready.len() {
            match self.call(burst, first) {
                Ok(sent) => {
                    for ready in &self.ready[first..first + sent] {
                        outcome(ready.leaving, Ok(()));
                    }
                    first += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    outcome(self.ready[first].leaving, Err(error));
                    first += 1;
                }
            }
        }
        self.ready.clear();
    }

    /// Sends from the `first` queued datagram on; gives how many left, at least one, or why the first did not.
    #[expect(unsafe_code, reason = "sendmmsg; no crate of ours offers it for raw sockets")]
    fn call(&mut self, burst: &mut Burst, first: usize) -> io::Result<usize> {
        let count = (self.ready.len() - first).min(BURST);
        // SAFETY: both are plain C structures of integers and pointers, for which all zero is a valid value.
        let (mut vectors, mut headers): ([libc::iovec; BURST], [libc::mmsghdr; BURST]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        for (index, ready) in self.ready[first..first + count].iter().enumerate() {
            let packet = &mut burst.slot(ready.leaving.slot)[ready.start..HEAD + ready.leaving.length];
            vectors[index] = libc::iovec {
                iov_base: packet.as_mut_ptr().cast(),
                iov_len: packet.len(),
            };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = ready.address.as_ptr().cast_mut().cast();
            header.msg_namelen = ready.address.len();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers point to addresses in `self` and packets in `burst`, with their true lengths,
        // which outlive the call and which the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Where a raw socket sends a packet to. The port would be that of the protocol, of which it has none (raw(7)).
pub(super) fn raw_address(mut destination: SocketAddr) -> SockAddr {
    destination.set_port(0);
    destination.into()
}
