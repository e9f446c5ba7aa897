//! Ethernet frames that carry RTP over UDP over IPv4: written once per stream, read by fixed offsets.

use std::net::{Ipv4Addr, SocketAddrV4};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Where the RTP packet begins in a frame we write.
pub const RTP_AT: usize = ETHERNET + IPV4 + UDP;
/// EtherType of IPv4.
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// IP protocol of UDP.
const PROTOCOL_UDP: u8 = 17;
/// Expedited Forwarding (RFC 3246), as phones mark their media; the DSCP is the upper six bits.
const TOS_EF: u8 = 46 << 2;

/// The octets before the RTP packet, for an RTP packet of `length` octets.
///
/// The UDP checksum is 0, none (RFC 768): to the receiver that costs what a network card that checks sums costs it.
pub fn head(hardware: ([u8; 6], [u8; 6]), from: SocketAddrV4, to: SocketAddrV4, length: usize) -> [u8; RTP_AT] {
    let mut head = [0; RTP_AT];
    let (source, destination) = hardware;
    head[..6].copy_from_slice(&destination);
    head[6..12].copy_from_slice(&source);
    head[12..14].copy_from_slice(&ETHERTYPE_IPV4);
    let udp_length = u16::try_from(UDP + length).expect("RTP packets are short");
    let ip = &mut head[ETHERNET..ETHERNET + IPV4];
    ip[0] = 0x45;
    ip[1] = TOS_EF;
    ip[2..4].copy_from_slice(&(IPV4 as u16 + udp_length).to_be_bytes());
    ip[6] = 0x40; // Don't fragment; the identification may then be 0 (RFC 6864 §4.1).
    ip[8] = 64;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut head[ETHERNET + IPV4..];
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    head
}

/// Where a received frame was sent to, and the RTP packet in it; `None` when it is no UDP over IPv4.
pub fn datagram(frame: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let packet = frame.get(ETHERNET..)?;
    if frame[12..14] != ETHERTYPE_IPV4 || packet.len() < IPV4 || packet[9] != PROTOCOL_UDP {
        return None;
    }
    let header = usize::from(packet[0] & 0x0F) * 4;
    let udp = packet.get(header..).filter(|udp| header >= IPV4 && udp.len() >= UDP)?;
    let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let port = u16::from_be_bytes([udp[2], udp[3]]);
    // Short frames are padded behind the datagram.
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    Some((SocketAddrV4::new(to, port), udp.get(UDP..length)?))
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_its_checksum_adds_up() {
        let (from, to) = (
            SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 10_000),
            SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 16_384),
        );
        let mut frame = head(([2; 6], [4; 6]), from, to, 3).to_vec();
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4]), 0);
        frame.extend_from_slice(b"rtp");
        frame.extend_from_slice(&[0; 15]);
        assert_eq!(datagram(&frame), Some((to, &b"rtp"[..])));
        for cut in 0..RTP_AT + 3 {
            assert_eq!(datagram(&frame[..cut]), None, "{cut}");
        }
    }
}
