//! Behaviour of both directions together; the printed vectors are in `vectors`.

mod vectors;

use proptest::prelude::*;

use super::*;
use crate::packet::PacketBuf;
use crate::rtp::{RtpHeader, SeqNo};
use crate::suite::SrtpSuite;

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(super) fn key(suite: SrtpSuite, seed: u8) -> SrtpKey {
    let material: Vec<u8> = (0..suite.key_salt_len())
        .map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed))
        .collect();
    SrtpKey::new(suite, &material).unwrap()
}

pub(super) fn rtp(sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let header = RtpHeader {
        marker: false,
        payload_type: 0,
        sequence,
        timestamp: u32::from(sequence) * 160,
        ssrc,
        header_len: 12,
        padded: false,
    };
    [&header.to_bytes()[..], payload].concat()
}

fn rtcp(ssrc: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    crate::rtcp::write_receiver_report(&mut octets, ssrc, &[]);
    crate::rtcp::write_source_description(&mut octets, ssrc, b"someone");
    octets
}

/// Runs an operation on a packet with the usual room behind it.
pub(super) fn edit<T>(octets: &mut Vec<u8>, operation: impl FnOnce(&mut PacketBuf<'_>) -> T) -> T {
    let len = octets.len();
    octets.resize(len + PacketBuf::HEADROOM, 0xEE);
    let mut packet = PacketBuf::new(octets, len);
    let result = operation(&mut packet);
    let len = packet.len();
    octets.truncate(len);
    result
}

fn protect(tx: &mut Protect, packet: &[u8]) -> Vec<u8> {
    let mut octets = packet.to_vec();
    edit(&mut octets, |packet| tx.protect_rtp(packet)).unwrap();
    octets
}

fn unprotect(rx: &mut Unprotect, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut octets = packet.to_vec();
    edit(&mut octets, |packet| rx.unprotect_rtp(packet)).map(|_| octets)
}

fn pair(suite: SrtpSuite) -> (Protect, Unprotect) {
    (Protect::new(&key(suite, 1)), Unprotect::new(&key(suite, 1)))
}

/// Sends sequence numbers `from..from + count`, all received.
fn run(tx: &mut Protect, rx: &mut Unprotect, ssrc: u32, from: u64, count: u64) {
    for index in from..from + count {
        let plain = rtp(index as u16, ssrc, b"x");
        assert_eq!(
            unprotect(rx, &protect(tx, &plain)).as_deref(),
            Ok(&plain[..]),
            "index {index}"
        );
    }
}

const SUITE: SrtpSuite = SrtpSuite::AesCm128HmacSha1_80;

#[test]
fn every_suite_round_trips_rtp_and_rtcp_and_grows_by_its_trailer() {
    for suite in SrtpSuite::ALL {
        let (mut tx, mut rx) = pair(suite);
        for len in [0, 1, 15, 16, 17, 160, 1200] {
            let plain = rtp(len as u16, 9, &vec![0x5A; len]);
            let wire = protect(&mut tx, &plain);
            assert_eq!(wire.len(), plain.len() + suite.rtp_tag_len(), "{suite}");
            assert!(
                len < 15 || wire[12..12 + len] != plain[12..],
                "{suite} does not encrypt"
            );
            assert_eq!(unprotect(&mut rx, &wire), Ok(plain), "{suite}");
        }
        let plain = rtcp(9);
        let mut wire = plain.clone();
        assert_eq!(edit(&mut wire, |packet| tx.protect_rtcp(packet)), Ok(1));
        assert_eq!(wire.len(), plain.len() + suite.rtcp_tag_len() + 4, "{suite}");
        edit(&mut wire, |packet| rx.unprotect_rtcp(packet)).unwrap();
        assert_eq!(wire, plain, "{suite}");
    }
}

#[test]
fn csrcs_and_extension_stay_in_the_clear_and_are_authenticated() {
    for suite in SrtpSuite::ALL {
        let (mut tx, mut rx) = pair(suite);
        let mut plain = rtp(1, 9, &[]);
        plain[0] |= 0x10 | 1;
        plain.extend([1, 2, 3, 4, 0xBE, 0xDE, 0, 1, 0x10, 0xFF, 0, 0]);
        plain.extend(b"payload");
        let wire = protect(&mut tx, &plain);
        assert_eq!(wire[..24], plain[..24]);
        assert_ne!(wire[24..31], plain[24..31]);
        assert_eq!(unprotect(&mut rx, &wire), Ok(plain));
    }
}

#[test]
fn any_changed_octet_fails_authentication_and_leaves_the_packet_alone() {
    for suite in SrtpSuite::ALL {
        let (mut tx, mut rx) = pair(suite);
        let wire = protect(&mut tx, &rtp(1000, 9, b"sixteen octets!!x"));
        for at in 0..wire.len() {
            for bit in [0x01, 0x80] {
                let mut forged = wire.clone();
                forged[at] ^= bit;
                let mut received = forged.clone();
                let result = edit(&mut received, |packet| rx.unprotect_rtp(packet));
                assert!(
                    matches!(result, Err(SrtpError::Unauthentic | SrtpError::Malformed)),
                    "{suite} octet {at}: {result:?}"
                );
                assert_eq!(received, forged, "{suite} octet {at}");
            }
        }
        assert!(
            unprotect(&mut rx, &wire).is_ok(),
            "{suite}: forgeries must not have used up the index"
        );
    }
}

#[test]
fn any_changed_octet_of_rtcp_fails_authentication_and_leaves_the_packet_alone() {
    for suite in SrtpSuite::ALL {
        let (mut tx, mut rx) = pair(suite);
        let mut wire = rtcp(9);
        edit(&mut wire, |packet| tx.protect_rtcp(packet)).unwrap();
        for at in 0..wire.len() {
            let mut forged = wire.clone();
            forged[at] ^= 0x80;
            let mut received = forged.clone();
            let result = edit(&mut received, |packet| rx.unprotect_rtcp(packet));
            assert!(
                matches!(result, Err(SrtpError::Unauthentic | SrtpError::Malformed)),
                "{suite} octet {at}: {result:?}"
            );
            assert_eq!(received, forged, "{suite} octet {at}");
        }
        edit(&mut wire, |packet| rx.unprotect_rtcp(packet)).unwrap();
    }
}

#[test]
fn truncated_packets_are_malformed_or_unauthentic_never_a_panic() {
    for suite in SrtpSuite::ALL {
        let (mut tx, mut rx) = pair(suite);
        let wire = protect(&mut tx, &rtp(1, 9, b"payload"));
        let mut control = rtcp(9);
        edit(&mut control, |packet| tx.protect_rtcp(packet)).unwrap();
        for len in 0..wire.len() {
            assert!(unprotect(&mut rx, &wire[..len]).is_err());
        }
        for len in 0..control.len() {
            assert!(edit(&mut control[..len].to_vec(), |packet| rx.unprotect_rtcp(packet)).is_err());
        }
    }
}

#[test]
fn replays_are_refused_within_and_below_the_window() {
    let (mut tx, mut rx) = pair(SUITE);
    let wires: Vec<_> = (0..400)
        .map(|sequence| protect(&mut tx, &rtp(sequence, 9, b"x")))
        .collect();
    for wire in &wires {
        assert!(unprotect(&mut rx, wire).is_ok());
    }
    for wire in &wires {
        assert_eq!(unprotect(&mut rx, wire), Err(SrtpError::Replayed));
    }
}

#[test]
fn reordering_within_the_window_is_accepted_and_told_from_new() {
    let (mut tx, mut rx) = pair(SUITE);
    let mut late = protect(&mut tx, &rtp(0, 9, b"late"));
    let newest =
        |rx: &mut Unprotect, wire: &mut Vec<u8>| edit(wire, |packet| rx.unprotect_rtp(packet)).unwrap().is_newest();
    for sequence in 1..=127 {
        assert!(newest(&mut rx, &mut protect(&mut tx, &rtp(sequence, 9, b"x"))));
    }
    assert!(!newest(&mut rx, &mut late));
}

#[test]
fn a_replayed_rtcp_packet_is_refused() {
    let (mut tx, mut rx) = pair(SUITE);
    let mut wire = rtcp(9);
    edit(&mut wire, |packet| tx.protect_rtcp(packet)).unwrap();
    let mut again = wire.clone();
    edit(&mut wire, |packet| rx.unprotect_rtcp(packet)).unwrap();
    assert_eq!(
        edit(&mut again, |packet| rx.unprotect_rtcp(packet)),
        Err(SrtpError::Replayed)
    );
}

/// Field bug of relays and phones alike: audio dies when the sequence number wraps.
#[test]
fn a_stream_survives_three_sequence_wraps() {
    for suite in [SUITE, SrtpSuite::AeadAes128Gcm] {
        let (mut tx, mut rx) = pair(suite);
        run(&mut tx, &mut rx, 9, 65_000, 3 * 65_536);
        assert_eq!(rx.snapshot().ssrcs[0].rtp.unwrap().roc(), 3);
    }
}

#[test]
fn packets_reordered_over_a_wrap_are_accepted() {
    let (mut tx, mut rx) = pair(SUITE);
    run(&mut tx, &mut rx, 9, 65_500, 34);
    let late: Vec<_> = (65_534..65_536).map(|index| rtp(index as u16, 9, b"late")).collect();
    let late_wires: Vec<_> = late.iter().map(|plain| protect(&mut tx, plain)).collect();
    run(&mut tx, &mut rx, 9, 65_536, 20);
    for (plain, wire) in late.iter().zip(&late_wires) {
        assert_eq!(unprotect(&mut rx, wire).as_ref(), Ok(plain));
    }
}

#[test]
fn losing_more_than_half_a_cycle_is_survived() {
    for lost in [32_000, 33_000, 60_000, 65_536, 90_000] {
        let (mut tx, mut rx) = pair(SUITE);
        run(&mut tx, &mut rx, 9, 100, 50);
        for index in 150..150 + lost {
            protect(&mut tx, &rtp(index as u16, 9, b"lost"));
        }
        run(&mut tx, &mut rx, 9, 150 + lost, 50);
    }
}

#[test]
fn a_receiver_that_joins_late_finds_the_rollover_counter() {
    for roc in 0..4u64 {
        let (mut tx, mut rx) = pair(SUITE);
        let snapshot = SrtpSnapshot {
            ssrcs: vec![SsrcSnapshot {
                ssrc: 9,
                rtp: SeqNo::from_u64((roc << 16) + 49),
                rtcp: None,
                sequence_offset: 0,
            }],
        };
        tx.restore(&snapshot, 0);
        run(&mut tx, &mut rx, 9, (roc << 16) + 50, 10);
    }
}

/// Hold and resume, or music on hold, switch the SSRC and come back to the first one.
#[test]
fn a_source_that_goes_and_returns_keeps_its_rollover_counter() {
    let (mut tx, mut rx) = pair(SUITE);
    run(&mut tx, &mut rx, 9, 65_530, 20);
    run(&mut tx, &mut rx, 77, 5, 20);
    run(&mut tx, &mut rx, 9, 65_550, 20);
    let mut rocs: Vec<_> = rx
        .snapshot()
        .ssrcs
        .iter()
        .map(|entry| (entry.ssrc, entry.rtp.unwrap().roc()))
        .collect();
    rocs.sort_unstable();
    assert_eq!(rocs, [(9, 1), (77, 0)]);
}

#[test]
fn the_receiver_table_is_bounded_and_evicts_the_source_unused_longest() {
    let (mut tx, mut rx) = pair(SUITE);
    for ssrc in 0..MAX_RECEIVE_SSRCS as u32 + 5 {
        run(&mut tx, &mut rx, ssrc, 0, 1);
        run(&mut tx, &mut rx, 0, u64::from(ssrc) + 1, 1);
    }
    let snapshot = rx.snapshot();
    assert_eq!(snapshot.ssrcs.len(), MAX_RECEIVE_SSRCS);
    assert!(
        snapshot.ssrcs.iter().any(|entry| entry.ssrc == 0),
        "the one in use all the time must stay"
    );
    assert!(!snapshot.ssrcs.iter().any(|entry| entry.ssrc == 1));
}

#[test]
fn the_sender_table_is_bounded_and_never_evicts() {
    let mut tx = Protect::new(&key(SUITE, 1));
    for ssrc in 0..MAX_SEND_SSRCS as u32 {
        protect(&mut tx, &rtp(1, ssrc, b"x"));
    }
    let mut one_more = rtp(1, 1_000_000, b"x");
    assert_eq!(
        edit(&mut one_more, |packet| tx.protect_rtp(packet)),
        Err(SrtpError::TooManySsrcs)
    );
    protect(&mut tx, &rtp(2, 0, b"x"));
}

#[test]
fn a_duplicate_from_the_plain_side_is_never_encrypted_twice() {
    let mut tx = Protect::new(&key(SUITE, 1));
    protect(&mut tx, &rtp(1, 9, b"one text"));
    let mut again = rtp(1, 9, b"other text");
    assert_eq!(
        edit(&mut again, |packet| tx.protect_rtp(packet)),
        Err(SrtpError::Replayed)
    );
    assert_eq!(again, rtp(1, 9, b"other text"));
}

/// A media server that restarts its numbering without changing its SSRC: the receiver hears one unbroken stream.
#[test]
fn a_source_that_restarts_its_sequence_goes_on_after_one_lost_packet() {
    for restart_at in [10u16, 700, 30_000, 64_000] {
        let (mut tx, mut rx) = pair(SUITE);
        run(&mut tx, &mut rx, 9, 65_536 + 40_000, 50);
        let mut first = rtp(restart_at, 9, b"x");
        let first_result = edit(&mut first, |packet| tx.protect_rtp(packet));
        let mut last = rx.snapshot().ssrcs[0].rtp.unwrap();
        if first_result.is_ok() {
            // A jump ahead needs no restart; the receiver follows it.
            last = unprotect(&mut rx, &first)
                .map(|_| rx.snapshot().ssrcs[0].rtp.unwrap())
                .unwrap();
        }
        for step in 1..200u16 {
            let wire = protect(&mut tx, &rtp(restart_at.wrapping_add(step), 9, b"x"));
            let plain = unprotect(&mut rx, &wire).unwrap();
            let index = rx.snapshot().ssrcs[0].rtp.unwrap();
            assert_eq!(Some(index), last.succ(), "restart at {restart_at}, step {step}");
            assert_eq!(RtpHeader::parse(&plain).unwrap().sequence, index.sequence());
            last = index;
        }
    }
}

#[test]
fn one_stray_old_packet_is_no_restart() {
    let (mut tx, mut rx) = pair(SUITE);
    run(&mut tx, &mut rx, 9, 5000, 50);
    let mut stray = rtp(1000, 9, b"x");
    assert_eq!(
        edit(&mut stray, |packet| tx.protect_rtp(packet)),
        Err(SrtpError::Replayed)
    );
    run(&mut tx, &mut rx, 9, 5050, 50);
}

#[test]
fn the_mki_is_written_and_checked() {
    for suite in SrtpSuite::ALL {
        let with = |value| key(suite, 1).with_mki(Mki::new(value, 4));
        let (mut tx, mut rx, mut other) = (
            Protect::new(&with(5)),
            Unprotect::new(&with(5)),
            Unprotect::new(&with(6)),
        );
        let plain = rtp(1, 9, b"payload");
        let wire = protect(&mut tx, &plain);
        assert_eq!(wire.len(), plain.len() + suite.rtp_tag_len() + 4);
        assert_eq!(unprotect(&mut other, &wire), Err(SrtpError::UnknownMki));
        assert_eq!(unprotect(&mut rx, &wire), Ok(plain));
        let mut control = rtcp(9);
        edit(&mut control, |packet| tx.protect_rtcp(packet)).unwrap();
        assert_eq!(
            edit(&mut control.clone(), |packet| other.unprotect_rtcp(packet)),
            Err(SrtpError::UnknownMki)
        );
        edit(&mut control, |packet| rx.unprotect_rtcp(packet)).unwrap();
        assert_eq!(control, rtcp(9));
    }
}

#[test]
fn without_room_for_the_trailer_nothing_happens() {
    for suite in SrtpSuite::ALL {
        let mut tx = Protect::new(&key(suite, 1));
        let plain = rtp(1, 9, b"payload");
        let mut octets = plain.clone();
        octets.resize(plain.len() + suite.rtp_tag_len() - 1, 0);
        let mut packet = PacketBuf::new(&mut octets, plain.len());
        assert_eq!(tx.protect_rtp(&mut packet), Err(SrtpError::NoRoom));
        assert_eq!(packet.as_slice(), plain);
        protect(&mut tx, &plain);
    }
}

#[test]
fn the_wrong_key_authenticates_nothing() {
    for suite in SrtpSuite::ALL {
        let mut tx = Protect::new(&key(suite, 1));
        let mut rx = Unprotect::new(&key(suite, 2));
        assert_eq!(
            unprotect(&mut rx, &protect(&mut tx, &rtp(1, 9, b"x"))),
            Err(SrtpError::Unauthentic)
        );
        assert!(
            rx.snapshot().ssrcs.is_empty(),
            "nothing unauthentic takes a place in the table"
        );
    }
}

/// RFC 3711 §3.3.1: re-keying does not reset the rollover counter. Many peers do reset it; both are understood.
#[test]
fn after_a_new_key_both_a_kept_and_a_reset_rollover_counter_are_understood() {
    for peer_resets in [false, true] {
        let (mut tx, mut rx) = pair(SUITE);
        run(&mut tx, &mut rx, 9, 2 * 65_536, 10);
        let fresh = key(SUITE, 9);
        rx = rx.rekeyed(&fresh);
        if peer_resets {
            tx = Protect::new(&fresh);
        } else {
            let predecessor = std::mem::replace(&mut tx, Protect::new(&fresh));
            tx.continue_from(&predecessor);
        }
        run(&mut tx, &mut rx, 9, 2 * 65_536 + 10, 10);
    }
}

#[test]
fn a_rekeyed_sender_keeps_its_rollover_counter() {
    let (mut tx, mut rx) = pair(SUITE);
    run(&mut tx, &mut rx, 9, 65_530, 20);
    let mut successor = Protect::new(&key(SUITE, 9));
    successor.continue_from(&tx);
    assert_eq!(successor.snapshot().ssrcs[0].rtp, Some(SeqNo::new(1, 13)));
}

#[test]
fn another_sender_goes_on_from_a_snapshot_up_to_a_cycle_old() {
    for elapsed in [1u64, 30_000, 40_000, 65_535] {
        let (mut tx, mut rx) = pair(SUITE);
        run(&mut tx, &mut rx, 9, 60_000, 10_000);
        let snapshot = tx.snapshot();
        run(&mut tx, &mut rx, 9, 70_000, elapsed);
        let mut successor = Protect::new(&key(SUITE, 1));
        successor.restore(&snapshot, 1000);
        run(&mut successor, &mut rx, 9, 70_000 + elapsed, 100);
        let mut control = rtcp(9);
        assert_eq!(edit(&mut control, |packet| successor.protect_rtcp(packet)), Ok(1));
    }
}

#[test]
fn a_restored_sender_jumps_over_rtcp_indices_it_may_have_used() {
    let mut tx = Protect::new(&key(SUITE, 1));
    for _ in 0..7 {
        edit(&mut rtcp(9), |packet| tx.protect_rtcp(packet)).unwrap();
    }
    let mut successor = Protect::new(&key(SUITE, 1));
    successor.restore(&tx.snapshot(), 1000);
    assert_eq!(edit(&mut rtcp(9), |packet| successor.protect_rtcp(packet)), Ok(1008));
}

#[test]
fn a_restored_receiver_refuses_what_was_received_before() {
    let (mut tx, mut rx) = pair(SUITE);
    let old = protect(&mut tx, &rtp(7, 9, b"x"));
    run(&mut tx, &mut rx, 9, 8, 20);
    let mut successor = Unprotect::new(&key(SUITE, 1));
    successor.restore(&rx.snapshot());
    assert_eq!(unprotect(&mut successor, &old), Err(SrtpError::Replayed));
    run(&mut tx, &mut successor, 9, 28, 20);
}

#[test]
fn an_exhausted_key_protects_nothing_more() {
    let mut tx = Protect::new(&key(SUITE, 1));
    let entry = SsrcSnapshot {
        ssrc: 9,
        rtp: SeqNo::from_u64(SeqNo::MAX.as_u64() - 1),
        rtcp: Some((1 << 31) - 2),
        sequence_offset: 0,
    };
    tx.restore(&SrtpSnapshot { ssrcs: vec![entry] }, 0);
    protect(&mut tx, &rtp(0xFFFF, 9, b"x"));
    assert_eq!(
        edit(&mut rtp(0, 9, b"x"), |packet| tx.protect_rtp(packet)),
        Err(SrtpError::KeyExhausted)
    );
    assert_eq!(edit(&mut rtcp(9), |packet| tx.protect_rtcp(packet)), Ok((1 << 31) - 1));
    assert_eq!(
        edit(&mut rtcp(9), |packet| tx.protect_rtcp(packet)),
        Err(SrtpError::KeyExhausted)
    );
}

#[test]
fn debug_output_holds_no_key_material() {
    let (tx, rx) = pair(SUITE);
    let text = format!("{tx:?} {rx:?}");
    let material = format!("{:?}", key(SUITE, 1).master_key());
    assert!(!text.contains(material.trim_matches(['[', ']'])));
    assert!(text.contains("AesCm128HmacSha1_80"));
}

/// The state beside the boxed key schedule.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_direction_is_small() {
    let sizes = (size_of::<Protect>(), size_of::<Unprotect>());
    assert!(sizes.0 <= 144 && sizes.1 <= 176, "{sizes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any loss below half a cycle and any reordering below the window, across a wrap, for every suite: what arrives and is
    /// no duplicate is what was sent.
    #[test]
    fn unprotect_inverts_protect_over_loss_reorder_and_wrap(
        suite in 0usize..8,
        start in 65_300u64..65_700,
        steps in proptest::collection::vec((1u64..400, 0usize..20, any::<bool>()), 1..120),
    ) {
        let (mut tx, mut rx) = pair(SrtpSuite::ALL[suite]);
        let mut index = start;
        let mut in_flight: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (gap, position, lose) in steps {
            // Gaps are lost before the relay; `lose` is lost after it.
            index += if gap < 300 { 1 } else { gap * 10 };
            if gap >= 300 {
                in_flight.clear();
            }
            let plain = rtp(index as u16, 9, &gap.to_be_bytes());
            let wire = protect(&mut tx, &plain);
            if !lose {
                in_flight.push((plain, wire));
            }
            if in_flight.len() > 10 {
                let (plain, wire) = in_flight.swap_remove(position % in_flight.len());
                prop_assert_eq!(unprotect(&mut rx, &wire), Ok(plain));
                prop_assert_eq!(unprotect(&mut rx, &wire), Err(SrtpError::Replayed));
            }
        }
    }

    #[test]
    fn hostile_packets_never_panic(suite in 0usize..8, octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut tx, mut rx) = pair(SrtpSuite::ALL[suite]);
        let mut with_version = octets.clone();
        if let Some(first) = with_version.first_mut() {
            *first = 0x80 | *first & 0x3F;
        }
        for octets in [octets, with_version] {
            let _ = edit(&mut octets.clone(), |packet| rx.unprotect_rtp(packet));
            let _ = edit(&mut octets.clone(), |packet| rx.unprotect_rtcp(packet));
            let _ = edit(&mut octets.clone(), |packet| tx.protect_rtp(packet));
            let _ = edit(&mut octets.clone(), |packet| tx.protect_rtcp(packet));
        }
        prop_assert!(rx.snapshot().ssrcs.is_empty());
    }
}
