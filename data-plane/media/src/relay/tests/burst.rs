//! A burst does what its packets would do one after the other.

use proptest::prelude::*;

use super::*;
use crate::rtp::SeqNo;
use crate::srtp::{Mki, Protect, SrtpKey};
use crate::suite::SrtpSuite;

struct Table(Vec<RelaySession>);

impl SessionTable for Table {
    type Key = usize;

    fn session(&self, key: usize) -> Option<&RelaySession> {
        self.0.get(key)
    }

    fn session_mut(&mut self, key: usize) -> Option<&mut RelaySession> {
        self.0.get_mut(key)
    }
}

/// A datagram on its way to a session.
#[derive(Debug, Clone)]
struct Datagram {
    session: usize,
    port: LocalPort,
    source: SocketAddr,
    octets: Vec<u8>,
    /// Free octets behind it.
    room: usize,
}

type Outcome = (Verdict, Option<Vec<u8>>);

fn outcome(verdict: Verdict, packet: &PacketBuf<'_>) -> Outcome {
    let forwarded = matches!(verdict, Verdict::Forward { .. });
    (verdict, forwarded.then(|| packet.as_slice().to_vec()))
}

/// Both ways to relay, on twin sessions.
struct Twins {
    single: Table,
    burst: Table,
    configs: Vec<SessionConfig>,
    now: Instant,
}

impl Twins {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the start of a test's clock"
    )]
    fn new(configs: Vec<SessionConfig>) -> Self {
        let now = Instant::now();
        let table = || {
            Table(
                configs
                    .iter()
                    .map(|config| RelaySession::new(now, config.clone()))
                    .collect(),
            )
        };
        Self {
            single: table(),
            burst: table(),
            configs,
            now,
        }
    }

    /// Relays the datagrams both ways; what must not differ is compared, and returned.
    fn relay(&mut self, datagrams: &[Datagram]) -> Vec<Outcome> {
        let slots = || {
            datagrams.iter().map(|datagram| {
                let mut slot = datagram.octets.clone();
                slot.resize(datagram.octets.len() + datagram.room, 0xEE);
                slot
            })
        };
        let mut expected = Vec::new();
        for (mut slot, datagram) in slots().zip(datagrams) {
            let mut packet = PacketBuf::new(&mut slot, datagram.octets.len());
            let verdict = match self.single.session_mut(datagram.session) {
                Some(session) => session.handle_packet(self.now, datagram.port, datagram.source, EF, &mut packet),
                None => Verdict::Drop(DropReason::UnknownPort),
            };
            expected.push(outcome(verdict, &packet));
        }
        let mut slots: Vec<_> = slots().collect();
        let mut packets: Vec<_> = slots
            .iter_mut()
            .zip(datagrams)
            .map(|(slot, datagram)| {
                let packet = PacketBuf::new(slot, datagram.octets.len());
                BurstPacket::new(datagram.session, datagram.port, datagram.source, EF, packet)
            })
            .collect();
        relay_burst(self.now, &mut self.burst, &mut packets);
        let outcomes: Vec<_> = packets
            .iter()
            .map(|packet| outcome(packet.verdict, &packet.packet))
            .collect();
        for (position, (burst, single)) in outcomes.iter().zip(&expected).enumerate() {
            assert_eq!(burst, single, "packet {position}: {:?}", datagrams[position]);
        }
        for (burst, single) in self.burst.0.iter().zip(&self.single.0) {
            assert_eq!(burst.snapshot(), single.snapshot());
            assert_eq!(burst.idle_deadline(), single.idle_deadline());
            for leg in LegId::BOTH {
                assert_eq!(burst.stats(leg), single.stats(leg));
                assert_eq!(burst.destination(0, leg), single.destination(0, leg));
            }
        }
        outcomes
    }

    fn renegotiate(&mut self, session: usize, change: impl FnOnce(&mut StreamLeg)) {
        let config = &mut self.configs[session];
        let legs = &mut config.streams[0].legs;
        legs[LegId::A].round += 1;
        legs[LegId::B].round += 1;
        change(&mut legs[LegId::A]);
        for table in [&mut self.single, &mut self.burst] {
            table.0[session].apply(self.now, config.clone());
        }
    }
}

fn key(suite: SrtpSuite, seed: u8) -> SrtpKey {
    SrtpKey::new(suite, &vec![seed; suite.key_salt_len()]).unwrap()
}

fn params(suite: SrtpSuite, seed: u8) -> SrtpParams {
    SrtpParams {
        rx: Some(key(suite, seed)),
        tx: key(suite, seed + 100),
    }
}

fn session(a: Option<SrtpParams>, b: Option<SrtpParams>) -> SessionConfig {
    let mut config = config();
    config.streams[0].legs[LegId::A].srtp = a;
    config.streams[0].legs[LegId::B].srtp = b;
    config
}

/// Every suite on either leg or both, plain on either or both, with an MKI, and one that latches and maps payload types.
fn sessions() -> Vec<SessionConfig> {
    let mut sessions = vec![session(None, None)];
    for (seed, suite) in (1..).zip(SrtpSuite::ALL) {
        let other = SrtpSuite::ALL[usize::from(seed) * 3 % SrtpSuite::ALL.len()];
        sessions.push(session(Some(params(suite, seed)), None));
        sessions.push(session(Some(params(suite, seed + 20)), Some(params(other, seed + 40))));
    }
    let mut named = params(SrtpSuite::AesCm128HmacSha1_80, 60);
    named.rx = named.rx.map(|key| key.with_mki(Mki::new(7, 4)));
    sessions.push(session(Some(named), Some(params(SrtpSuite::AesCm256HmacSha1_80, 61))));
    let mut moving = session(Some(params(SrtpSuite::AesCm128HmacSha1_32, 62)), None);
    let leg_a = &mut moving.streams[0].legs[LegId::A];
    leg_a.source = SourcePolicy::Latch {
        signalling_ip: IpAddr::from([192, 0, 2, 10]),
    };
    leg_a.payloads = PayloadMap {
        rules: SmallVec::from_iter([rule(0, Some(8), false), rule(13, None, true)]),
        pass_unlisted: false,
    };
    sessions.push(moving);
    sessions
}

/// What one leg of one session sends.
struct Phone {
    tx: Option<Protect>,
    /// Last sequence number of each of its sources.
    sequences: [u16; 3],
    sent: Vec<Vec<u8>>,
}

impl Phone {
    fn new(leg: &StreamLeg) -> Self {
        Self {
            tx: leg.srtp.as_ref().and_then(|srtp| srtp.rx.as_ref()).map(Protect::new),
            sequences: [65_520, 7, 30_000],
            sent: Vec::new(),
        }
    }

    fn seal(&mut self, datagram: Vec<u8>, rtcp: bool) -> Vec<u8> {
        let mut slot = datagram.clone();
        slot.resize(datagram.len() + PacketBuf::HEADROOM, 0);
        let mut packet = PacketBuf::new(&mut slot, datagram.len());
        let sealed = match &mut self.tx {
            None => return datagram,
            Some(tx) if rtcp => tx.protect_rtcp(&mut packet).is_ok(),
            Some(tx) => tx.protect_rtp(&mut packet).is_ok(),
        };
        // What a sender may not seal (a number used before) goes out as it is and is refused.
        if sealed { packet.as_slice().to_vec() } else { datagram }
    }
}

#[derive(Debug, Clone)]
enum Kind {
    /// The next packet of a source, after skipping some.
    Voice {
        ssrc: usize,
        skip: u16,
    },
    /// A datagram sent before, counted from the last one.
    Again {
        back: usize,
    },
    /// A good packet with one octet changed.
    Corrupt {
        ssrc: usize,
        at: usize,
    },
    /// A good packet cut short.
    Cut {
        ssrc: usize,
        len: usize,
    },
    /// Not encrypted, whatever the leg is.
    Bare {
        ssrc: usize,
    },
    Report,
    Noise(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Event {
    session: usize,
    leg: LegId,
    kind: Kind,
    len: usize,
    payload_type: u8,
    stranger: bool,
    room: usize,
    /// The burst ends with this packet.
    last: bool,
    /// Leg A has a new key after the burst.
    rekey: bool,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let skip = prop_oneof![8 => Just(0u16), 2 => 1u16..200, 1 => 20_000u16..50_000, 1 => 65_400u16..];
    prop_oneof![
        12 => (0usize..3, skip).prop_map(|(ssrc, skip)| Kind::Voice { ssrc, skip }),
        2 => (0usize..6).prop_map(|back| Kind::Again { back }),
        1 => (0usize..3, 0usize..60).prop_map(|(ssrc, at)| Kind::Corrupt { ssrc, at }),
        1 => (0usize..3, 0usize..40).prop_map(|(ssrc, len)| Kind::Cut { ssrc, len }),
        1 => (0usize..3).prop_map(|ssrc| Kind::Bare { ssrc }),
        1 => Just(Kind::Report),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Kind::Noise),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let len = prop_oneof![6 => Just(160usize), 1 => 0usize..40, 1 => 0usize..700];
    let payload_type = prop_oneof![8 => Just(0u8), 1 => Just(13u8), 1 => 96u8..128];
    let room = prop_oneof![30 => Just(PacketBuf::HEADROOM), 1 => 0usize..16];
    // Few sessions, so that streams continue within a burst.
    let session = prop_oneof![4 => 0usize..4, 6 => 0usize..20];
    (
        session,
        prop_oneof![2 => Just(LegId::A), 1 => Just(LegId::B)],
        kinds(),
        len,
        payload_type,
        proptest::bool::weighted(0.05),
        room,
        proptest::bool::weighted(0.03),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(session, leg, kind, len, payload_type, stranger, room, last, rekey)| Event {
                session,
                leg,
                kind,
                len,
                payload_type,
                stranger,
                room,
                last,
                rekey,
            },
        )
}

/// The datagram of an event.
fn datagram(phones: &mut [PerLeg<Phone>], event: &Event) -> Datagram {
    let rtcp = matches!(event.kind, Kind::Report);
    let component = if rtcp { Component::Rtcp } else { Component::Rtp };
    let mut source = address(if event.leg == LegId::A { PHONE_A } else { PHONE_B });
    source.set_port(source.port() + u16::from(rtcp) + 2 * u16::from(event.stranger));
    let octets = match phones.get_mut(event.session) {
        None => voice(1, 1),
        Some(phones) => octets(&mut phones[event.leg], event),
    };
    Datagram {
        session: event.session,
        port: ports(event.leg, component),
        source,
        octets,
        room: event.room,
    }
}

fn octets(phone: &mut Phone, event: &Event) -> Vec<u8> {
    let plain = |phone: &mut Phone, ssrc: usize, skip: u16| {
        let sequence = phone.sequences[ssrc].wrapping_add(1).wrapping_add(skip);
        phone.sequences[ssrc] = sequence;
        let timestamp = u32::from(sequence).wrapping_mul(160);
        let payload = vec![sequence as u8; event.len];
        media(
            ssrc as u32 + 1,
            sequence,
            event.payload_type,
            timestamp,
            false,
            &payload,
        )
    };
    let octets = match event.kind {
        Kind::Voice { ssrc, skip } => {
            let plain = plain(phone, ssrc, skip);
            phone.seal(plain, false)
        }
        Kind::Again { back } => {
            let position = phone.sent.len().checked_sub(1 + back);
            position.map_or_else(Vec::new, |position| phone.sent[position].clone())
        }
        Kind::Corrupt { ssrc, at } => {
            let plain = plain(phone, ssrc, 0);
            let mut octets = phone.seal(plain, false);
            let at = at % octets.len();
            octets[at] ^= 0x10;
            octets
        }
        Kind::Cut { ssrc, len } => {
            let plain = plain(phone, ssrc, 0);
            let mut octets = phone.seal(plain, false);
            octets.truncate(len);
            octets
        }
        Kind::Bare { ssrc } => plain(phone, ssrc, 0),
        Kind::Report => phone.seal(receiver_report(1), true),
        Kind::Noise(ref octets) => octets.clone(),
    };
    phone.sent.push(octets.clone());
    octets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_burst_is_its_packets_one_after_the_other(events in proptest::collection::vec(events(), 1..260)) {
        let mut twins = Twins::new(sessions());
        let phones = |config: &SessionConfig| {
            let legs = &config.streams[0].legs;
            PerLeg::new(Phone::new(&legs[LegId::A]), Phone::new(&legs[LegId::B]))
        };
        let mut phones: Vec<_> = twins.configs.iter().map(phones).collect();
        let mut burst = Vec::new();
        for (position, event) in events.iter().enumerate() {
            burst.push(datagram(&mut phones, event));
            if event.last || position + 1 == events.len() {
                twins.relay(&burst);
                burst.clear();
                twins.now += Duration::from_millis(1500);
                if let Some(phones) = phones.get_mut(event.session).filter(|_| event.rekey) {
                    let suite = SrtpSuite::ALL[position % SrtpSuite::ALL.len()];
                    let fresh = params(suite, (position % 100) as u8);
                    phones[LegId::A].tx = fresh.rx.as_ref().map(Protect::new);
                    twins.renegotiate(event.session, |leg| leg.srtp = Some(fresh));
                }
            }
        }
    }
}

const SUITE: SrtpSuite = SrtpSuite::AesCm128HmacSha1_80;

/// A twin pair with one session that is SRTP on leg A, and what its phone sends as one burst.
fn secure_burst(plain: impl IntoIterator<Item = Vec<u8>>) -> (Twins, Vec<Datagram>) {
    let config = session(Some(params(SUITE, 1)), None);
    let mut phone = Phone::new(&config.streams[0].legs[LegId::A]);
    let datagram = |plain| Datagram {
        session: 0,
        port: ports(LegId::A, Component::Rtp),
        source: address(PHONE_A),
        octets: phone.seal(plain, false),
        room: PacketBuf::HEADROOM,
    };
    let datagrams = plain.into_iter().map(datagram).collect();
    (Twins::new(vec![config]), datagrams)
}

fn is_forwarded(outcome: &Outcome) -> bool {
    matches!(outcome.0, Verdict::Forward { .. })
}

#[test]
fn the_sequence_may_wrap_inside_a_burst_and_a_new_source_may_start_in_it() {
    let numbers = (65_500..=65_535).chain(0..50).map(|sequence| (1, sequence));
    let plain = numbers.chain((9..30).map(|sequence| (2, sequence)));
    let plain: Vec<_> = plain.map(|(ssrc, sequence)| voice(ssrc, sequence)).collect();
    let (mut twins, datagrams) = secure_burst(plain.clone());
    assert!(datagrams.len() > MAX_BATCH);
    for (outcome, plain) in twins.relay(&datagrams).iter().zip(&plain) {
        assert_eq!(outcome.1.as_ref(), Some(plain));
    }
    let snapshot = twins.burst.0[0].snapshot();
    let highest: Vec<_> = snapshot.streams[0][LegId::A]
        .rx
        .ssrcs
        .iter()
        .map(|source| source.rtp)
        .collect();
    assert_eq!(highest, [Some(SeqNo::new(1, 49)), Some(SeqNo::new(0, 29))]);
}

#[test]
fn a_replay_is_found_inside_its_burst_and_a_forgery_does_not_spoil_the_others() {
    let (mut twins, mut datagrams) = secure_burst((1..9).map(|sequence| voice(1, sequence)));
    datagrams.insert(5, datagrams[2].clone());
    datagrams[7].octets[30] ^= 1;
    let outcomes = twins.relay(&datagrams);
    let dropped: Vec<_> = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| !is_forwarded(outcome))
        .map(|(position, outcome)| (position, outcome.0))
        .collect();
    assert_eq!(
        dropped,
        [
            (5, Verdict::Drop(DropReason::Replayed)),
            (7, Verdict::Drop(DropReason::Unauthentic))
        ]
    );
}

#[test]
fn packets_of_no_session_are_dropped_and_an_empty_burst_is_nothing() {
    let (mut twins, mut datagrams) = secure_burst([voice(1, 1)]);
    datagrams[0].session = 5;
    let outcomes = twins.relay(&datagrams);
    assert_eq!(outcomes, [(Verdict::Drop(DropReason::UnknownPort), None)]);
    assert_eq!(twins.relay(&[]), []);
}

/// The packets before it have moved the source on by two cycles when its turn comes: too far for its index to be tried.
#[test]
fn a_packet_is_judged_by_where_its_source_stands_when_its_turn_comes() {
    let steps = (0..6).map(|step: u32| voice(1, (20 + 30_000 * step) as u16));
    let (mut twins, datagrams) = secure_burst(steps);
    assert!(is_forwarded(&twins.relay(&datagrams[..1])[0]));
    let burst = [&datagrams[1..], &datagrams[..1]].concat();
    let outcomes = twins.relay(&burst);
    let (old, new) = outcomes.split_last().unwrap();
    assert!(new.iter().all(is_forwarded), "{new:?}");
    assert_eq!(old.0, Verdict::Drop(DropReason::Unauthentic));
}
