//! IP and UDP headers of what leaves.

use std::net::{IpAddr, SocketAddr};

const HOPS: u8 = 64;
/// Octets of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Octets of an IPv6 header.
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

/// Octets of the headers in front of what `source` sends.
pub(super) fn length(source: SocketAddr) -> usize {
    match source {
        SocketAddr::V4(_) => IPV4_HEADER + UDP_HEADER,
        SocketAddr::V6(_) => IPV6_HEADER + UDP_HEADER,
    }
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
    /// Identification of an IPv4 packet, for whoever fragments it; 0 leaves the choice to the kernel (raw(7)).
    pub(super) identification: u16,
}

/// Writes the headers of the datagram whose payload stands in `packet` behind [`length`] octets. "Don't fragment" is off, as a
/// phone behind a tunnel would rather have fragments than silence.
pub(super) fn write(packet: &mut [u8], heading: &Heading) {
    let header = length(heading.source) - UDP_HEADER;
    let whole = packet.len() as u16;
    let length = whole - header as u16;
    let (ip, udp) = packet.split_at_mut(header);
    ip.fill(0);
    let mut sum = u64::from(length.to_be()) + u64::from(u16::from(libc::IPPROTO_UDP as u8).to_be());
    match (heading.source.ip(), heading.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ip[0] = 0x45;
            ip[1] = heading.tos;
            ip[2..4].copy_from_slice(&whole.to_be_bytes());
            ip[4..6].copy_from_slice(&heading.identification.to_be_bytes());
            ip[8] = HOPS;
            ip[9] = libc::IPPROTO_UDP as u8;
            ip[12..16].copy_from_slice(&source.octets());
            ip[16..20].copy_from_slice(&destination.octets());
            let own = checksum(sum_words(ip));
            ip[10..12].copy_from_slice(&own.to_ne_bytes());
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
                    identification: 7,
                };
                let mut packet: Vec<u8> = (0..header + UDP_HEADER + length).map(|at| (at * 37) as u8).collect();
                write(&mut packet, &heading);
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
            identification: 0,
        };
        let mut packet = [0; IPV4_HEADER + UDP_HEADER];
        write(&mut packet, &heading);
        assert_eq!(packet[..2], [0x45, 184]);
        (heading.source, heading.destination) = (
            "[::1]:1".parse().expect("an address"),
            "[::1]:2".parse().expect("an address"),
        );
        let mut packet = [0; IPV6_HEADER + UDP_HEADER];
        write(&mut packet, &heading);
        assert_eq!(packet[..4], [0x6B, 0x80, 0, 0]);
    }
}
