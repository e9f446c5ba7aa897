//! Which protocol a datagram on a media port belongs to (RFC 7983 §7, RFC 5761 §4).

/// Protocol of a datagram by its first octets. Nothing else of the datagram has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// First octet 0..=3.
    Stun,
    /// First octet 16..=19.
    Zrtp,
    /// First octet 20..=63.
    Dtls,
    /// First octet 64..=79.
    TurnChannel,
    /// Version 2 and not RTCP.
    Rtp,
    /// Version 2 and a packet type of 192..=223 (RFC 5761 §4).
    Rtcp,
    /// Empty, or a first octet no protocol uses.
    Unknown,
}

/// Classifies a datagram. RTP and RTCP are told apart by the second octet, so this works on multiplexed ports; with
/// separate ports it shows a peer that sends to the wrong one.
pub fn classify(datagram: &[u8]) -> PacketKind {
    match datagram {
        [0..=3, ..] => PacketKind::Stun,
        [16..=19, ..] => PacketKind::Zrtp,
        [20..=63, ..] => PacketKind::Dtls,
        [64..=79, ..] => PacketKind::TurnChannel,
        [128..=191, 192..=223, ..] => PacketKind::Rtcp,
        [128..=191, _, ..] => PacketKind::Rtp,
        _ => PacketKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_octets_follow_the_table_of_rfc_7983() {
        let table = [
            (0, PacketKind::Stun),
            (3, PacketKind::Stun),
            (4, PacketKind::Unknown),
            (15, PacketKind::Unknown),
            (16, PacketKind::Zrtp),
            (20, PacketKind::Dtls),
            (63, PacketKind::Dtls),
            (64, PacketKind::TurnChannel),
            (80, PacketKind::Unknown),
            (127, PacketKind::Unknown),
            (128, PacketKind::Rtp),
            (191, PacketKind::Rtp),
            (192, PacketKind::Unknown),
        ];
        for (first, kind) in table {
            assert_eq!(classify(&[first, 0]), kind, "{first}");
        }
        assert_eq!(classify(&[]), PacketKind::Unknown);
        assert_eq!(classify(&[0x80]), PacketKind::Unknown);
    }

    #[test]
    fn rtcp_is_packet_types_192_to_223_so_marked_rtp_of_types_64_to_95_is_lost() {
        for (second, kind) in [
            (191, PacketKind::Rtp),
            (192, PacketKind::Rtcp),
            (200, PacketKind::Rtcp),
            (223, PacketKind::Rtcp),
            (224, PacketKind::Rtp),
        ] {
            assert_eq!(classify(&[0x80, second]), kind, "{second}");
        }
    }
}
