//! Media packets before anything of them is believed: demultiplexing, RTP headers, RTCP compounds.

use std::hint::black_box;

use trunkline_media::demux::{PacketKind, classify};
use trunkline_media::rtcp::{Compound, CompoundRule, RtcpPacket};
use trunkline_media::rtp::{FIXED_HEADER_LEN, RtpHeader};

/// The input is one datagram.
pub fn run(data: &[u8]) {
    let kind = classify(data);
    if let Ok(header) = RtpHeader::parse(data) {
        assert!((FIXED_HEADER_LEN..=data.len()).contains(&header.header_len));
        assert!(matches!(kind, PacketKind::Rtp | PacketKind::Rtcp));
        let fixed = RtpHeader::parse(&header.to_bytes()).expect("a fixed header is a packet");
        assert_eq!(
            (
                fixed.marker,
                fixed.payload_type,
                fixed.sequence,
                fixed.timestamp,
                fixed.ssrc
            ),
            (
                header.marker,
                header.payload_type,
                header.sequence,
                header.timestamp,
                header.ssrc
            )
        );
        if let Ok(payload) = header.payload(data) {
            assert!(payload.len() + header.header_len <= data.len());
        }
        rewrites(data, &header);
    }
    let full = Compound::parse(data, CompoundRule::Full);
    let reduced = Compound::parse(data, CompoundRule::ReducedSize);
    assert!(
        full.is_err() || reduced.is_ok(),
        "the reduced rule refuses nothing the full one accepts"
    );
    if let Ok(compound) = reduced {
        black_box(compound.sender_ssrc());
        compound.packets().flatten().for_each(|packet| read(&packet));
    }
}

/// Payload type and sequence number are changed and nothing else.
fn rewrites(data: &[u8], header: &RtpHeader) {
    let mut packet = data.to_vec();
    RtpHeader::set_payload_type(&mut packet, 96);
    RtpHeader::set_sequence(&mut packet, header.sequence.wrapping_add(1));
    let after = RtpHeader::parse(&packet).expect("still a packet");
    let expected = RtpHeader {
        payload_type: 96,
        sequence: header.sequence.wrapping_add(1),
        ..*header
    };
    assert_eq!(after, expected);
}

fn read(packet: &RtcpPacket<'_>) {
    match packet {
        RtcpPacket::SenderReport(report) => {
            black_box((report.middle_ntp(), report.blocks().count()));
        }
        RtcpPacket::ReceiverReport(report) => {
            black_box(report.blocks().count());
        }
        RtcpPacket::SourceDescription(description) => {
            black_box(description.items().map(|(_, _, text)| text.len()).sum::<usize>());
        }
        RtcpPacket::Bye(bye) => {
            black_box(bye.ssrcs().count());
        }
        RtcpPacket::ExtendedReport(report) => {
            black_box(report.blocks().map(|(_, _, content)| content.len()).sum::<usize>());
        }
        _ => {}
    }
}
