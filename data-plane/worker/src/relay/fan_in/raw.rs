//! Sending datagrams of many ports with one system call: raw sockets, headers of our own.
//!
//! A UDP socket sends from its own port only. A raw socket with the header included sends from any, and the kernel still
//! routes, resolves the neighbour, and passes the packet through its filters.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::relay::burst::{BURST, Burst, HEAD};
use crate::relay::wire::Leaving;

/// Packets that wait for the device: 20 ms of 5,000 streams.
const SEND_BUFFER: usize = 4 * 1024 * 1024;
const HOPS: u8 = 64;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

/// A datagram whose headers stand in its slot.
struct Ready {
    leaving: Leaving,
    start: usize,
    end: usize,
    destination: SockAddr,
}

/// The raw socket of one address family, and what is about to leave by it.
pub(super) struct RawSender {
    socket: Socket,
    ready: Vec<Ready>,
}

/// What the headers of a datagram say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading {
    /// Our address: any of this machine's.
    pub(super) source: SocketAddr,
    /// The peer's, of the same family.
    pub(super) destination: SocketAddr,
    /// TOS or traffic-class octet.
    pub(super) tos: u8,
}

impl RawSender {
    /// A sender for IPv4 or IPv6.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or CAP_NET_ADMIN for the size of the buffer.
    pub(super) fn new(domain: Domain) -> io::Result<RawSender> {
        // IPPROTO_RAW: headers are included, and nothing is ever received.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.set_nonblocking(true)?;
        super::force_buffer(&socket, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        Ok(RawSender {
            socket,
            ready: Vec::with_capacity(BURST),
        })
    }

    /// Writes the headers of a datagram in front of it and queues it.
    pub(super) fn queue(&mut self, burst: &mut Burst, leaving: Leaving, source: SocketAddr, tos: u8) {
        let heading = Heading {
            source,
            destination: leaving.destination,
            tos,
        };
        let header = match source.ip() {
            IpAddr::V4(_) => IPV4_HEADER,
            IpAddr::V6(_) => IPV6_HEADER,
        };
        let (start, end) = (HEAD - UDP_HEADER - header, HEAD + leaving.length);
        write_headers(&mut burst.slot(leaving.slot)[start..end], header, &heading);
        // The port would be that of the protocol, of which a raw socket has none (raw(7)).
        let mut destination = leaving.destination;
        destination.set_port(0);
        self.ready.push(Ready {
            leaving,
            start,
            end,
            destination: destination.into(),
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
            let packet = &mut burst.slot(ready.leaving.slot)[ready.start..ready.end];
            vectors[index] = libc::iovec {
                iov_base: packet.as_mut_ptr().cast(),
                iov_len: packet.len(),
            };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = ready.destination.as_ptr().cast_mut().cast();
            header.msg_namelen = ready.destination.len();
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

/// IP and UDP headers in front of the payload in `packet`. The kernel fills in the length and the checksum of an IPv4 header
/// and its identification (raw(7)); "don't fragment" is off, as a phone behind a tunnel would rather have fragments than
/// silence.
fn write_headers(packet: &mut [u8], header: usize, heading: &Heading) {
    let length = (packet.len() - header) as u16;
    let (ip, udp) = packet.split_at_mut(header);
    ip.fill(0);
    let mut sum = u64::from(length.to_be()) + u64::from(u16::from(libc::IPPROTO_UDP as u8).to_be());
    match (heading.source.ip(), heading.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ip[0] = 0x45;
            ip[1] = heading.tos;
            ip[8] = HOPS;
            ip[9] = libc::IPPROTO_UDP as u8;
            ip[12..16].copy_from_slice(&source.octets());
            ip[16..20].copy_from_slice(&destination.octets());
            sum += sum_words(&ip[12..20]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ip[0] = 0x60 | heading.tos >> 4;
            ip[1] = heading.tos << 4;
            ip[4..6].copy_from_slice(&length.to_be_bytes());
            ip[6] = libc::IPPROTO_UDP as u8;
            ip[7] = HOPS;
            ip[8..24].copy_from_slice(&source.octets());
            ip[24..40].copy_from_slice(&destination.octets());
            sum += sum_words(&ip[8..40]);
        }
        // The caller sends by family; a packet without a version is refused by the kernel.
        _ => return,
    }
    udp[..2].copy_from_slice(&heading.source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&heading.destination.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    udp[6..8].fill(0);
    sum += sum_words(udp);
    udp[6..8].copy_from_slice(&checksum(sum).to_ne_bytes());
}

/// Sum of 16-bit words in the machine's order (RFC 1071 §2: the order does not matter as long as it is one), taken 64 bits
/// at a time: no sum over a datagram comes near 2^64.
fn sum_words(octets: &[u8]) -> u64 {
    let (chunks, tail) = octets.as_chunks::<8>();
    let whole: u64 = chunks
        .iter()
        .map(|chunk| {
            let word = u64::from_ne_bytes(*chunk);
            (word & 0xFFFF_FFFF) + (word >> 32)
        })
        .sum();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let last = u64::from_ne_bytes(last);
    whole + (last & 0xFFFF_FFFF) + (last >> 32)
}

/// The checksum of a sum; 0 is sent as 0xFFFF, since 0 means none (RFC 768).
fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xFFFF,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver's check: with the checksum in place the sum of pseudo-header and datagram is all ones (RFC 1071 §1).
    fn holds(addresses: &[u8], udp: &[u8]) -> bool {
        let words = |octets: &[u8]| -> u32 {
            octets
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                .sum()
        };
        let mut sum = words(addresses) + 17 + udp.len() as u32 + words(udp);
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum == 0xFFFF
    }

    #[test]
    fn checksums_hold_for_every_length() {
        for length in 0..200 {
            for (source, destination, header, addresses) in [
                ("192.0.2.1:16384", "198.51.100.77:40000", IPV4_HEADER, 12..20),
                ("[2001:db8::1]:16384", "[2001:db8::99]:40000", IPV6_HEADER, 8..40),
            ] {
                let heading = Heading {
                    source: source.parse().expect("an address"),
                    destination: destination.parse().expect("an address"),
                    tos: 184,
                };
                let mut packet: Vec<u8> = (0..header + UDP_HEADER + length).map(|at| (at * 37) as u8).collect();
                write_headers(&mut packet, header, &heading);
                let (ip, udp) = packet.split_at(header);
                assert!(holds(&ip[addresses], udp), "{source} with {length} octets");
                assert_eq!(udp[..4], [0x40, 0x00, 0x9C, 0x40]);
                assert_eq!(
                    udp[8..],
                    (header + 8..packet.len()).map(|at| (at * 37) as u8).collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn the_mark_stands_where_each_version_has_it() {
        let mut heading = Heading {
            source: "192.0.2.1:1".parse().expect("an address"),
            destination: "192.0.2.2:2".parse().expect("an address"),
            tos: 184,
        };
        let mut packet = [0; IPV4_HEADER + UDP_HEADER];
        write_headers(&mut packet, IPV4_HEADER, &heading);
        assert_eq!(packet[..2], [0x45, 184]);
        (heading.source, heading.destination) = (
            "[::1]:1".parse().expect("an address"),
            "[::1]:2".parse().expect("an address"),
        );
        let mut packet = [0; IPV6_HEADER + UDP_HEADER];
        write_headers(&mut packet, IPV6_HEADER, &heading);
        assert_eq!(packet[..4], [0x6B, 0x80, 0, 0]);
    }
}
