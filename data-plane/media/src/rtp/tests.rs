use super::*;
use proptest::prelude::*;

fn header() -> RtpHeader {
    RtpHeader {
        marker: true,
        payload_type: 101,
        sequence: 0xF17B,
        timestamp: 0x8041_F8D3,
        ssrc: 0x5501_A0B2,
        header_len: 12,
        padded: false,
    }
}

#[test]
fn a_written_header_reads_back() {
    assert_eq!(RtpHeader::parse(&header().to_bytes()), Ok(header()));
}

#[test]
fn csrcs_and_extension_are_skipped() {
    let mut packet = header().to_bytes().to_vec();
    packet[0] = 0x80 | 0x10 | 2;
    packet.extend([0; 8]);
    packet.extend([0xBE, 0xDE, 0, 1, 0x51, 0xAA, 0, 0]);
    packet.extend(b"voice");
    let parsed = RtpHeader::parse(&packet).unwrap();
    assert_eq!(parsed.header_len, 12 + 8 + 8);
    assert_eq!(parsed.payload(&packet).unwrap(), b"voice");
    for cut in 0..parsed.header_len {
        assert_eq!(RtpHeader::parse(&packet[..cut]), Err(RtpError::Truncated), "{cut}");
    }
}

#[test]
fn other_versions_are_refused() {
    for first in [0x00, 0x40, 0xC0] {
        let mut packet = header().to_bytes();
        packet[0] = first;
        assert_eq!(RtpHeader::parse(&packet), Err(RtpError::Version));
    }
}

#[test]
fn padding_must_stay_inside_the_payload() {
    let mut packet = header().to_bytes().to_vec();
    packet[0] |= 0x20;
    let parsed = RtpHeader::parse(&packet).unwrap();
    assert_eq!(
        parsed.payload(&packet),
        Err(RtpError::Padding),
        "padding bit without payload"
    );
    packet.extend([1, 2, 3, 0]);
    assert_eq!(parsed.payload(&packet), Err(RtpError::Padding), "count of zero");
    packet[15] = 5;
    assert_eq!(
        parsed.payload(&packet),
        Err(RtpError::Padding),
        "count beyond the payload"
    );
    packet[15] = 3;
    assert_eq!(parsed.payload(&packet).unwrap(), [1]);
    packet[15] = 4;
    assert_eq!(parsed.payload(&packet).unwrap(), [0u8; 0]);
}

#[test]
fn rewriting_the_payload_type_keeps_the_marker() {
    let mut packet = header().to_bytes();
    RtpHeader::set_payload_type(&mut packet, 8);
    let parsed = RtpHeader::parse(&packet).unwrap();
    assert!(parsed.marker);
    assert_eq!(parsed.payload_type, 8);
    RtpHeader::set_sequence(&mut packet, 7);
    assert_eq!(RtpHeader::parse(&packet).unwrap().sequence, 7);
}

#[test]
fn the_closest_index_crosses_a_wrap_both_ways() {
    let near_wrap = SeqNo::new(3, 65_530);
    assert_eq!(near_wrap.closest(4), SeqNo::new(4, 4));
    assert_eq!(SeqNo::new(4, 4).closest(65_530), near_wrap);
    assert_eq!(SeqNo::new(4, 4).closest(4), SeqNo::new(4, 4));
    // Nothing is before the first packet: a high number after a low one at rollover 0 is a jump ahead.
    assert_eq!(SeqNo::new(0, 10).closest(65_000), SeqNo::new(0, 65_000));
}

#[test]
fn the_next_index_is_always_above() {
    assert_eq!(SeqNo::new(1, 500).next_with(500), Some(SeqNo::new(2, 500)));
    assert_eq!(SeqNo::new(1, 500).next_with(499), Some(SeqNo::new(2, 499)));
    assert_eq!(SeqNo::new(1, 500).next_with(501), Some(SeqNo::new(1, 501)));
    assert_eq!(SeqNo::MAX.next_with(0), None);
    assert_eq!(SeqNo::MAX.succ(), None);
}

proptest! {
    #[test]
    fn parsing_never_panics(packet in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(header) = RtpHeader::parse(&packet) {
            prop_assert!(header.header_len <= packet.len());
            let _ = header.payload(&packet);
        }
    }

    #[test]
    fn closest_is_within_half_a_cycle(index in 0x8000u64..(1 << 40), offset in -0x7FFFi64..0x8000) {
        let index = SeqNo::from_u64(index).unwrap();
        let target = SeqNo::from_u64(index.as_u64().checked_add_signed(offset).unwrap()).unwrap();
        prop_assert_eq!(index.closest(target.sequence()), target);
    }
}
