//! SRTP on one leg or both, re-offers, and a peer that holds the keys.

use super::*;
use crate::srtp::{Protect, SrtpError, SrtpKey, Unprotect};
use crate::suite::SrtpSuite;

fn key(suite: SrtpSuite, seed: u8) -> SrtpKey {
    SrtpKey::new(suite, &vec![seed; suite.key_salt_len()]).unwrap()
}

/// A phone with SRTP on leg A.
struct Phone {
    tx: Protect,
    rx: Unprotect,
}

impl Phone {
    /// What it sends is the edge's `rx` key.
    fn new(params: &SrtpParams) -> Self {
        Self {
            tx: Protect::new(params.rx.as_ref().unwrap()),
            rx: Unprotect::new(&params.tx),
        }
    }

    fn seal(&mut self, datagram: &[u8]) -> Vec<u8> {
        edit(datagram, |packet| self.tx.protect_rtp(packet).map(drop)).unwrap()
    }

    fn seal_rtcp(&mut self, datagram: &[u8]) -> Vec<u8> {
        edit(datagram, |packet| self.tx.protect_rtcp(packet).map(drop)).unwrap()
    }

    fn open(&mut self, datagram: &[u8]) -> Result<Vec<u8>, SrtpError> {
        edit(datagram, |packet| self.rx.unprotect_rtp(packet).map(drop))
    }
}

fn edit(
    datagram: &[u8],
    operation: impl FnOnce(&mut PacketBuf<'_>) -> Result<(), SrtpError>,
) -> Result<Vec<u8>, SrtpError> {
    let mut octets = datagram.to_vec();
    octets.resize(datagram.len() + PacketBuf::HEADROOM, 0);
    let mut packet = PacketBuf::new(&mut octets, datagram.len());
    operation(&mut packet)?;
    Ok(packet.as_slice().to_vec())
}

fn params(suite: SrtpSuite, seed: u8) -> SrtpParams {
    SrtpParams {
        rx: Some(key(suite, seed)),
        tx: key(suite, seed + 100),
    }
}

const SUITE: SrtpSuite = SrtpSuite::AesCm128HmacSha1_80;

fn secure(suite: SrtpSuite) -> (Bench, Phone) {
    let mut config = config();
    let params = params(suite, 1);
    let phone = Phone::new(&params);
    config.streams[0].legs[LegId::A].srtp = Some(params);
    assert_eq!(config.path(), MediaPath::Recrypt);
    (Bench::new(config), phone)
}

/// Both ways once, with the next sequence number.
fn exchange(bench: &mut Bench, phone: &mut Phone, sequence: u16) {
    let sent = bench.rtp(LegId::A, PHONE_A, &phone.seal(&voice(1, sequence))).unwrap();
    assert_eq!(sent.datagram, voice(1, sequence), "decrypted towards B");
    let sent = bench.rtp(LegId::B, PHONE_B, &voice(2, sequence)).unwrap();
    assert_ne!(sent.datagram, voice(2, sequence), "encrypted towards A");
    assert_eq!(phone.open(&sent.datagram), Ok(voice(2, sequence)));
}

#[test]
fn every_suite_bridges_to_plain_rtp_both_ways() {
    for suite in SrtpSuite::ALL {
        let (mut bench, mut phone) = secure(suite);
        for sequence in 0..5 {
            exchange(&mut bench, &mut phone, sequence);
        }
        let report = receiver_report(1);
        let sent = bench
            .send(
                ports(LegId::A, Component::Rtcp),
                "192.0.2.10:40001",
                &phone.seal_rtcp(&report),
            )
            .unwrap();
        assert_eq!(sent.datagram, report, "{suite}");
        let sent = bench
            .send(ports(LegId::B, Component::Rtcp), "198.51.100.20:50001", &report)
            .unwrap();
        assert_ne!(sent.datagram, report, "{suite}");
        let opened = edit(&sent.datagram, |packet| phone.rx.unprotect_rtcp(packet).map(drop));
        assert_eq!(opened, Ok(report), "{suite}");
    }
}

#[test]
fn two_srtp_legs_have_their_own_suites_and_keys() {
    let (mut bench, mut phone_a) = secure(SrtpSuite::AeadAes256Gcm);
    let params_b = params(SrtpSuite::AesCm192HmacSha1_32, 30);
    let mut phone_b = Phone::new(&params_b);
    bench.renegotiate(LegId::B, |leg| leg.srtp = Some(params_b));
    let sent = bench.rtp(LegId::A, PHONE_A, &phone_a.seal(&voice(1, 1))).unwrap();
    assert_eq!(phone_b.open(&sent.datagram), Ok(voice(1, 1)));
    let sent = bench.rtp(LegId::B, PHONE_B, &phone_b.seal(&voice(2, 1))).unwrap();
    assert_eq!(phone_a.open(&sent.datagram), Ok(voice(2, 1)));
}

#[test]
fn plain_forged_and_replayed_packets_are_refused_and_counted_apart() {
    let (mut bench, mut phone) = secure(SUITE);
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &voice(1, 1)), Err(DropReason::Unauthentic));
    let sealed = phone.seal(&voice(1, 1));
    let mut forged = sealed.clone();
    forged[20] ^= 1;
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &forged), Err(DropReason::Unauthentic));
    assert!(bench.rtp(LegId::A, PHONE_A, &sealed).is_ok());
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &sealed), Err(DropReason::Replayed));
    let drops = bench.session.stats(LegId::A).drops;
    assert_eq!(
        (drops.count(DropReason::Unauthentic), drops.count(DropReason::Replayed)),
        (2, 1)
    );
}

#[test]
fn a_duplicate_of_the_plain_leg_is_not_encrypted_again() {
    let (mut bench, _) = secure(SUITE);
    assert!(bench.rtp(LegId::B, PHONE_B, &voice(2, 1)).is_ok());
    assert_eq!(bench.rtp(LegId::B, PHONE_B, &voice(2, 1)), Err(DropReason::Duplicate));
}

#[test]
fn before_the_answer_brings_the_key_nothing_is_believed() {
    let (mut bench, mut phone) = secure(SUITE);
    let mut config = config();
    config.streams[0].legs[LegId::A].srtp = Some(SrtpParams {
        rx: None,
        ..params(SUITE, 1)
    });
    bench.session = RelaySession::new(bench.now, config);
    assert_eq!(
        bench.rtp(LegId::A, PHONE_A, &phone.seal(&voice(1, 1))),
        Err(DropReason::NoKey)
    );
}

/// SRTP failure after a sequence wrap and after hold and resume: a re-offer with the same keys must not reset counters.
#[test]
fn a_reoffer_with_the_same_keys_keeps_rollover_counters_and_replay_windows() {
    let (mut bench, mut phone) = secure(SUITE);
    for sequence in (65_530..=65_535).chain(0..5) {
        exchange(&mut bench, &mut phone, sequence);
    }
    let old = phone.seal(&voice(1, 5));
    assert!(bench.rtp(LegId::A, PHONE_A, &old).is_ok());
    for direction in [Direction::SendOnly, Direction::SendRecv] {
        bench.renegotiate(LegId::A, |leg| leg.direction = direction);
    }
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &old), Err(DropReason::Replayed));
    bench
        .rtp(LegId::B, PHONE_B, &voice(2, 5))
        .map(|sent| phone.open(&sent.datagram))
        .unwrap()
        .unwrap();
    for sequence in 6..10 {
        exchange(&mut bench, &mut phone, sequence);
    }
}

#[test]
fn a_held_leg_is_still_decrypted_so_that_its_counters_go_on() {
    let (mut bench, mut phone) = secure(SUITE);
    exchange(&mut bench, &mut phone, 100);
    bench.renegotiate(LegId::A, |leg| leg.direction = Direction::SendOnly);
    for index in 101..101 + 70_000u32 {
        let sealed = phone.seal(&voice(1, index as u16));
        if index % 1000 == 0 {
            assert_eq!(bench.rtp(LegId::A, PHONE_A, &sealed), Err(DropReason::Direction));
        }
    }
    bench.renegotiate(LegId::A, |leg| leg.direction = Direction::SendRecv);
    let next = (101 + 70_000u32) as u16;
    assert!(bench.rtp(LegId::A, PHONE_A, &phone.seal(&voice(1, next))).is_ok());
}

#[test]
fn an_ssrc_change_and_return_is_survived() {
    let (mut bench, mut phone) = secure(SUITE);
    for (ssrc, sequence) in [(1, 65_535), (1, 0), (50, 7), (50, 8), (1, 1), (1, 2)] {
        let sent = bench
            .rtp(LegId::A, PHONE_A, &phone.seal(&voice(ssrc, sequence)))
            .unwrap();
        assert_eq!(sent.datagram, voice(ssrc, sequence));
    }
    assert_eq!(bench.session.stats(LegId::A).lost, 0);
}

/// RFC 4568 §7.1.4: after new keys packets under the old ones are still on their way.
#[test]
fn old_keys_are_accepted_for_a_grace_period_and_then_no_more() {
    let (mut bench, mut old_phone) = secure(SUITE);
    exchange(&mut bench, &mut old_phone, 1);
    let new_params = params(SrtpSuite::AeadAes128Gcm, 40);
    let mut new_phone = Phone::new(&new_params);
    bench.renegotiate(LegId::A, |leg| leg.srtp = Some(new_params));
    assert!(bench.rtp(LegId::A, PHONE_A, &old_phone.seal(&voice(1, 2))).is_ok());
    assert!(bench.rtp(LegId::A, PHONE_A, &new_phone.seal(&voice(1, 3))).is_ok());
    let sent = bench.rtp(LegId::B, PHONE_B, &voice(2, 2)).unwrap();
    assert_eq!(
        new_phone.open(&sent.datagram),
        Ok(voice(2, 2)),
        "sending switches at once"
    );
    bench.advance(OLD_KEY_GRACE);
    assert_eq!(
        bench.rtp(LegId::A, PHONE_A, &old_phone.seal(&voice(1, 4))),
        Err(DropReason::Unauthentic)
    );
}

#[test]
fn a_key_that_comes_back_finds_its_counters_and_no_keystream_is_used_twice() {
    let (mut bench, mut phone) = secure(SUITE);
    exchange(&mut bench, &mut phone, 1);
    let first = bench.config.streams[0].legs[LegId::A].srtp.clone();
    let replay = phone.seal(&voice(1, 2));
    assert!(bench.rtp(LegId::A, PHONE_A, &replay).is_ok());
    bench.renegotiate(LegId::A, |leg| {
        leg.srtp = Some(params(SUITE, 60));
        leg.remote = Some(RemoteMedia::with_next_port(address("192.0.2.10:41000")));
    });
    bench.renegotiate(LegId::A, |leg| {
        leg.srtp = first;
        leg.remote = Some(RemoteMedia::with_next_port(address(PHONE_A)));
    });
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &replay), Err(DropReason::Replayed));
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 1)),
        Err(DropReason::Duplicate),
        "index 1 was used with this key"
    );
    exchange(&mut bench, &mut phone, 3);
}

#[test]
fn new_keys_keep_the_rollover_counter_at_the_same_address_and_reset_it_at_a_new_one() {
    for moves in [false, true] {
        let (mut bench, mut phone) = secure(SUITE);
        for sequence in (65_530..=65_535).chain(0..5) {
            exchange(&mut bench, &mut phone, sequence);
        }
        bench.renegotiate(LegId::A, |leg| {
            leg.srtp = Some(params(SUITE, 60));
            if moves {
                leg.remote = Some(RemoteMedia::with_next_port(address("192.0.2.10:41000")));
            }
        });
        bench.rtp(LegId::B, PHONE_B, &voice(2, 5)).unwrap();
        let snapshot = bench.session.snapshot();
        let roc = snapshot.streams[0][LegId::A].tx.ssrcs[0].rtp.unwrap().roc();
        assert_eq!(roc, u32::from(!moves));
    }
}

#[test]
fn with_srtp_the_latch_takes_any_source_but_only_a_valid_tag() {
    let (mut bench, mut phone) = secure(SUITE);
    bench.renegotiate(LegId::A, |leg| {
        leg.source = SourcePolicy::Latch {
            signalling_ip: ip("203.0.113.5"),
        };
        leg.remote = Some(RemoteMedia::with_next_port(address("10.0.0.7:40000")));
    });
    // Nothing unauthenticated latches, not even from the signalling address.
    assert_eq!(
        bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)),
        Err(DropReason::Unauthentic)
    );
    assert_eq!(bench.session.destination(0, LegId::A), None);
    bench
        .rtp(LegId::A, "203.0.113.99:61000", &phone.seal(&voice(1, 1)))
        .unwrap();
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.99:61000"))
    );
    // The phone's NAT binding changes: a new valid packet moves it; a replay or a late packet from elsewhere does not.
    let late = phone.seal(&voice(1, 2));
    let moved = phone.seal(&voice(1, 3));
    bench.rtp(LegId::A, "203.0.113.99:62000", &moved).unwrap();
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.99:62000"))
    );
    assert_eq!(bench.rtp(LegId::A, "198.18.0.1:1", &moved), Err(DropReason::Replayed));
    assert!(bench.rtp(LegId::A, "203.0.113.99:61000", &late).is_ok());
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.99:62000"))
    );
}

#[test]
fn another_worker_goes_on_from_a_snapshot_without_the_phones_noticing() {
    let (mut bench, mut phone) = secure(SUITE);
    bench.renegotiate(LegId::A, |leg| {
        leg.source = SourcePolicy::Latch {
            signalling_ip: ip("192.0.2.10"),
        }
    });
    for sequence in (65_500..=65_535).chain(0..10) {
        exchange(&mut bench, &mut phone, sequence);
    }
    let replay = phone.seal(&voice(1, 10));
    assert!(bench.rtp(LegId::A, PHONE_A, &replay).is_ok());
    let snapshot = bench.session.snapshot();
    for sequence in 11..200 {
        exchange(&mut bench, &mut phone, sequence);
    }
    bench.session = RelaySession::restore(bench.now, bench.config.clone(), &snapshot, 100);
    assert_eq!(bench.session.destination(0, LegId::A), Some(address(PHONE_A)));
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &replay), Err(DropReason::Replayed));
    for sequence in 200..220 {
        exchange(&mut bench, &mut phone, sequence);
    }
}

#[test]
fn going_back_to_plain_rtp_drops_the_contexts() {
    let (mut bench, _) = secure(SUITE);
    bench.renegotiate(LegId::A, |leg| leg.srtp = None);
    assert_eq!(
        bench.rtp(LegId::A, PHONE_A, &voice(1, 1)).unwrap().datagram,
        voice(1, 1)
    );
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 1)).unwrap().datagram,
        voice(2, 1)
    );
}
