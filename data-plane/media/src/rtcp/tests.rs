use super::*;
use proptest::prelude::*;

fn block(lost: i32) -> ReportBlock {
    ReportBlock {
        ssrc: 0xAABB_CCDD,
        fraction_lost: 12,
        cumulative_lost: lost,
        highest_sequence: 0x0001_1234,
        jitter: 33,
        last_sr: 0x1234_5678,
        delay_since_last_sr: 65_536,
    }
}

fn compound() -> Vec<u8> {
    let info = SenderInfo {
        ntp: 0x0102_0304_0506_0708,
        rtp_timestamp: 160,
        packet_count: 50,
        octet_count: 8000,
    };
    let mut out = Vec::new();
    write_sender_report(&mut out, 7, &info, &[block(-3)]);
    write_source_description(&mut out, 7, b"phone@10.0.0.1");
    write_bye(&mut out, &[7, 8]);
    out
}

#[test]
fn a_written_compound_reads_back() {
    let octets = compound();
    let compound = Compound::parse(&octets, CompoundRule::Full).unwrap();
    assert_eq!(compound.sender_ssrc(), Some(7));
    let packets: Vec<_> = compound.packets().map(Result::unwrap).collect();
    let [
        RtcpPacket::SenderReport(report),
        RtcpPacket::SourceDescription(description),
        RtcpPacket::Bye(bye),
    ] = packets[..]
    else {
        panic!("{packets:?}")
    };
    assert_eq!(
        (report.ntp, report.middle_ntp(), report.octet_count),
        (0x0102_0304_0506_0708, 0x0304_0506, 8000)
    );
    assert_eq!(report.blocks().collect::<Vec<_>>(), [block(-3)]);
    assert_eq!(
        description.items().collect::<Vec<_>>(),
        [(7, 1, &b"phone@10.0.0.1"[..])]
    );
    assert_eq!((bye.ssrcs().collect::<Vec<_>>(), bye.reason), (vec![7, 8], None));
}

#[test]
fn cnames_of_every_alignment_read_back() {
    for len in 0..=9 {
        let mut octets = Vec::new();
        write_receiver_report(&mut octets, 1, &[]);
        write_source_description(&mut octets, 1, &b"abcdefghi"[..len]);
        let compound = Compound::parse(&octets, CompoundRule::Full).unwrap();
        let Some(Ok(RtcpPacket::SourceDescription(description))) = compound.packets().nth(1) else {
            panic!()
        };
        assert_eq!(description.items().collect::<Vec<_>>(), [(1, 1, &b"abcdefghi"[..len])]);
    }
}

#[test]
fn several_sdes_chunks_are_walked() {
    // Two chunks: CNAME "a" with two zero octets to the boundary, then CNAME "bcd" with three.
    let octets = [
        0x82, 202, 0, 5, 0, 0, 0, 1, 1, 1, b'a', 0, 0, 0, 0, 2, 1, 3, b'b', b'c', b'd', 0, 0, 0,
    ];
    let compound = Compound::parse(&octets, CompoundRule::ReducedSize).unwrap();
    let Some(Ok(RtcpPacket::SourceDescription(description))) = compound.packets().next() else {
        panic!()
    };
    assert_eq!(
        description.items().collect::<Vec<_>>(),
        [(1, 1, &b"a"[..]), (2, 1, &b"bcd"[..])]
    );
}

#[test]
fn the_24_bit_loss_keeps_its_sign_and_saturates() {
    for (written, read) in [
        (-1, -1),
        (8_388_607, 8_388_607),
        (9_000_000, 8_388_607),
        (-9_000_000, -8_388_608),
    ] {
        let mut octets = Vec::new();
        write_receiver_report(&mut octets, 1, &[block(written)]);
        let compound = Compound::parse(&octets, CompoundRule::Full).unwrap();
        let Some(Ok(RtcpPacket::ReceiverReport(report))) = compound.packets().next() else {
            panic!()
        };
        assert_eq!(report.blocks().next().unwrap().cumulative_lost, read);
    }
}

#[test]
fn the_first_packet_must_be_a_report_unless_reduced_size() {
    let mut octets = Vec::new();
    write_bye(&mut octets, &[1]);
    assert_eq!(Compound::parse(&octets, CompoundRule::Full), Err(RtcpError::NotAReport));
    assert!(Compound::parse(&octets, CompoundRule::ReducedSize).is_ok());
}

#[test]
fn lengths_must_add_up_to_the_datagram() {
    let octets = compound();
    assert_eq!(
        Compound::parse(&octets[..octets.len() - 1], CompoundRule::Full),
        Err(RtcpError::Length)
    );
    let mut longer = octets.clone();
    longer.extend([0; 2]);
    assert_eq!(Compound::parse(&longer, CompoundRule::Full), Err(RtcpError::Length));
    assert_eq!(Compound::parse(&[], CompoundRule::Full), Err(RtcpError::Length));
}

#[test]
fn padding_is_only_for_the_last_packet_and_must_fit() {
    let mut octets = compound();
    octets[0] |= 0x20;
    assert_eq!(Compound::parse(&octets, CompoundRule::Full), Err(RtcpError::Padding));

    let mut last = Vec::new();
    write_receiver_report(&mut last, 9, &[]);
    last[0] |= 0x20;
    last[3] += 1;
    last.extend([0, 0, 0, 4]);
    let compound = Compound::parse(&last, CompoundRule::Full).unwrap();
    assert!(matches!(
        compound.packets().next(),
        Some(Ok(RtcpPacket::ReceiverReport(_)))
    ));
    for count in [0, 3, 12, 255] {
        *last.last_mut().unwrap() = count;
        assert_eq!(
            Compound::parse(&last, CompoundRule::Full),
            Err(RtcpError::Padding),
            "{count}"
        );
    }
}

#[test]
fn a_count_beyond_the_contents_is_an_error_of_that_packet_only() {
    let mut octets = Vec::new();
    write_receiver_report(&mut octets, 9, &[]);
    octets[0] |= 5;
    write_bye(&mut octets, &[9]);
    let compound = Compound::parse(&octets, CompoundRule::Full).unwrap();
    let packets: Vec<_> = compound.packets().collect();
    assert_eq!(packets[0], Err(RtcpError::Contents));
    assert!(matches!(packets[1], Ok(RtcpPacket::Bye(_))));
}

#[test]
fn extended_report_blocks_are_walked() {
    let octets = [0x80, 207, 0, 4, 0, 0, 0, 3, 4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];
    let compound = Compound::parse(&octets, CompoundRule::ReducedSize).unwrap();
    let Some(Ok(RtcpPacket::ExtendedReport(report))) = compound.packets().next() else {
        panic!()
    };
    assert_eq!(
        report.blocks().collect::<Vec<_>>(),
        [(4, 0, &[1, 2, 3, 4, 5, 6, 7, 8][..])]
    );
}

proptest! {
    #[test]
    fn walking_never_panics(
        mut octets in proptest::collection::vec(any::<u8>(), 0..200),
        plausible in any::<bool>(),
        packet_type in 199u8..209,
    ) {
        if plausible && octets.len() >= 4 {
            octets.truncate(octets.len() / 4 * 4);
            let words = (octets.len() / 4 - 1) as u16;
            octets[0] = 0x80 | octets[0] & 0x3F;
            octets[1] = packet_type;
            octets[2..4].copy_from_slice(&words.to_be_bytes());
        }
        for rule in [CompoundRule::Full, CompoundRule::ReducedSize] {
            if let Ok(compound) = Compound::parse(&octets, rule) {
                for packet in compound.packets().flatten() {
                    match packet {
                        RtcpPacket::SenderReport(report) => drop(report.blocks().count()),
                        RtcpPacket::ReceiverReport(report) => drop(report.blocks().count()),
                        RtcpPacket::SourceDescription(description) => drop(description.items().count()),
                        RtcpPacket::Bye(bye) => drop(bye.ssrcs().count()),
                        RtcpPacket::ExtendedReport(report) => drop(report.blocks().count()),
                        RtcpPacket::Other { .. } => {}
                    }
                }
            }
        }
    }
}
