//! Properties of offer/answer through the edge that hold for whatever the two ends send, in whatever order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::HashSet;
use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_media::SrtpSuite;
use trunkline_media::codec::Codec;
use trunkline_media::negotiate::{
    AddressFamily, DtmfMethod, DtmfPolicy, LegPolicy, MediaSession, PortAllocator, PortLease, PortsExhausted, SrtpMode,
    SrtpPolicy,
};
use trunkline_media::relay::{LegId, PerLeg, PortId, SourcePolicy};
use trunkline_media::sdp::{self, Protocol, TypedAttribute};

#[derive(Default)]
struct Ports {
    leases: u16,
}

impl PortAllocator for Ports {
    fn allocate(&mut self, _: LegId, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        self.leases += 1;
        let ip = match family {
            AddressFamily::V4 => "198.51.100.1".parse().unwrap(),
            AddressFamily::V6 => "2001:db8::1".parse().unwrap(),
        };
        Ok(PortLease {
            id: PortId(self.leases.into()),
            rtp: SocketAddr::new(ip, 20_000 + 2 * self.leases),
            rtcp: SocketAddr::new(ip, 20_001 + 2 * self.leases),
        })
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Offer(LegId, String),
    Answer(LegId, String),
    /// The leg that is asked answers what it was offered.
    Agree(Agreement),
    Both(LegId, String),
    Originate(LegId),
    Reject,
    Confirm,
}

/// How a well-behaved peer answers.
#[derive(Debug, Clone)]
struct Agreement {
    /// Which crypto line is taken, modulo their number, and the octet its own key is made of.
    crypto: (usize, u8),
    /// How many formats are left off the front, modulo their number.
    skip: usize,
    /// Added to every dynamic payload type.
    renumber: bool,
    direction: &'static str,
}

impl Agreement {
    fn answer(&self, offer: &[u8]) -> String {
        let offer = sdp::parse(offer).unwrap();
        let family = if offer.connection().unwrap().ip().unwrap().is_ipv4() {
            "IP4 203.0.113.1"
        } else {
            "IP6 2001:db8::77"
        };
        let mut text = format!("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nc=IN {family}\r\nt=0 0\r\n");
        for (index, media) in offer.media().iter().enumerate() {
            let number = |text: &str| match text.parse::<u8>().unwrap() {
                number @ 96..=126 if self.renumber => number + 1,
                number => number,
            };
            let kept = &media.formats[self.skip % media.formats.len()..];
            let numbers: Vec<_> = match media.port {
                0 => kept.iter().map(|format| (*format).to_owned()).collect(),
                _ => kept.iter().map(|format| number(format).to_string()).collect(),
            };
            let port = if media.port == 0 { 0 } else { 5000 };
            text.push_str(&format!(
                "m={} {port} {} {}\r\n",
                media.media,
                media.protocol_text,
                numbers.join(" ")
            ));
            let mut crypto = Vec::new();
            for attribute in offer.media_attributes(index) {
                match attribute.typed().unwrap() {
                    TypedAttribute::RtpMap(map) => {
                        let channels = map.channels.map_or(String::new(), |count| format!("/{count}"));
                        let format = format!("{}/{}{channels}", map.encoding, map.clock_rate);
                        text.push_str(&format!(
                            "a=rtpmap:{} {format}\r\n",
                            number(&map.payload_type.to_string())
                        ));
                    }
                    TypedAttribute::Crypto(value) => crypto.push(value.to_owned()),
                    TypedAttribute::RtcpMux => text.push_str("a=rtcp-mux\r\n"),
                    _ => {}
                }
            }
            let (pick, fill) = self.crypto;
            if !crypto.is_empty() {
                let mut words = crypto[pick % crypto.len()].split(' ');
                let (tag, suite) = (words.next().unwrap(), words.next().unwrap());
                let key = base64_of(fill, SrtpSuite::parse(suite).unwrap().0.key_salt_len());
                text.push_str(&format!("a=crypto:{tag} {suite} inline:{key}\r\n"));
            }
            text.push_str(&format!("a={}\r\n", self.direction));
        }
        text
    }
}

fn agreement() -> impl Strategy<Value = Agreement> {
    let direction = prop::sample::select(vec!["sendrecv", "sendrecv", "sendonly", "recvonly", "inactive"]);
    (
        (0usize..8, 1u8..=255),
        prop_oneof![3 => Just(0usize), 1 => 0usize..6],
        any::<bool>(),
        direction,
    )
        .prop_map(|(crypto, skip, renumber, direction)| Agreement {
            crypto,
            skip,
            renumber,
            direction,
        })
}

fn a_leg() -> impl Strategy<Value = LegId> {
    prop_oneof![Just(LegId::A), Just(LegId::B)]
}

fn policy() -> impl Strategy<Value = LegPolicy> {
    let suites = prop::sample::subsequence(SrtpSuite::ALL.to_vec(), 0..=8).prop_shuffle();
    let mode = prop_oneof![2 => Just(SrtpMode::Off), 2 => Just(SrtpMode::Optional), 1 => Just(SrtpMode::Required)];
    let method = prop::sample::select(vec![DtmfMethod::RtpEvents, DtmfMethod::InBand, DtmfMethod::None]);
    let codecs = prop::sample::subsequence(Codec::ALL.to_vec(), 3..=5).prop_shuffle();
    let payload = 96u8..=127;
    (codecs, mode, suites, method, payload, any::<[bool; 3]>()).prop_map(
        |(codecs, mode, suites, method, payload, [latches, v6, rtcp_mux])| LegPolicy {
            codecs,
            srtp: SrtpPolicy { mode, suites },
            dtmf: DtmfPolicy { method, payload },
            source: match latches {
                true => SourcePolicy::Latch {
                    signalling_ip: "192.0.2.1".parse().unwrap(),
                },
                false => SourcePolicy::Signalled,
            },
            family: if v6 { AddressFamily::V6 } else { AddressFamily::V4 },
            rtcp_mux,
            dscp: None,
            idle: None,
        },
    )
}

/// One media section, mostly sensible audio.
fn section() -> impl Strategy<Value = String> {
    let media = prop_oneof![18 => Just("audio"), 1 => Just("video"), 1 => Just("image")];
    let port = prop_oneof![9 => 1024u16..60_000, 1 => Just(0)];
    let protocol = prop_oneof![
        6 => Just("RTP/AVP"),
        4 => Just("RTP/SAVP"),
        1 => Just("RTP/AVPF"),
        1 => Just("RTP/SAVPF"),
        1 => Just("UDP/TLS/RTP/SAVPF")
    ];
    let statics = prop::sample::subsequence(vec![0u8, 8, 9, 13, 18, 3], 1..=6).prop_shuffle();
    let dynamics = prop::collection::btree_map(
        96u8..=127,
        prop::sample::select(vec![
            "opus/48000/2",
            "telephone-event/8000",
            "telephone-event/48000",
            "PCMU/8000",
            "G722/8000",
        ]),
        0..4,
    );
    let crypto = prop::collection::vec(
        (1u32..5, prop::sample::select(SrtpSuite::ALL.to_vec()), 1u8..=255),
        0..4,
    );
    let extra = prop::collection::vec(
        prop::sample::select(vec![
            "a=sendonly",
            "a=recvonly",
            "a=inactive",
            "a=rtcp-mux",
            "a=ptime:20",
            "a=rtcp:5001",
            "c=IN IP4 0.0.0.0",
            "c=IN IP6 2001:db8::9",
            "c=IN IP4 192.0.2.7",
            "b=AS:64",
            "a=label:1",
            "a=rtpmap:96",
        ]),
        0..4,
    );
    (media, port, protocol, statics, dynamics, crypto, extra).prop_map(
        |(media, port, protocol, statics, dynamics, crypto, extra)| {
            let mut text = format!("m={media} {port} {protocol}");
            for number in statics.iter().chain(dynamics.keys()) {
                text.push_str(&format!(" {number}"));
            }
            text.push_str("\r\n");
            for (number, format) in dynamics {
                text.push_str(&format!("a=rtpmap:{number} {format}\r\n"));
            }
            for (tag, suite, fill) in crypto {
                let key = base64_of(fill, suite.key_salt_len());
                text.push_str(&format!("a=crypto:{tag} {suite} inline:{key}\r\n"));
            }
            for line in extra {
                text.push_str(line);
                text.push_str("\r\n");
            }
            text
        },
    )
}

fn base64_of(fill: u8, length: usize) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(vec![fill; length])
}

fn description() -> impl Strategy<Value = String> {
    let sections =
        prop_oneof![1 => Just(0usize), 20 => 1usize..4].prop_flat_map(|count| prop::collection::vec(section(), count));
    let sensible = sections.prop_map(|sections| {
        format!(
            "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{}",
            sections.concat()
        )
    });
    prop_oneof![20 => sensible, 1 => "v=0\r\no=- 1 1 IN IP4 h\r\n([a-z]=.{0,20}\r\n){0,5}", 1 => ".{0,40}"]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (a_leg(), description()).prop_map(|(leg, body)| Step::Offer(leg, body)),
        9 => agreement().prop_map(Step::Agree),
        2 => (a_leg(), description()).prop_map(|(leg, body)| Step::Answer(leg, body)),
        1 => (a_leg(), description()).prop_map(|(leg, body)| Step::Both(leg, body)),
        1 => a_leg().prop_map(Step::Originate),
        1 => Just(Step::Reject),
        1 => Just(Step::Confirm),
    ]
}

/// What one leg has been sent so far.
#[derive(Default)]
struct Seen {
    last: Option<(String, u64, String)>,
}

impl Seen {
    /// Checks a description of ours: strict SDP, and the `o=` rules of RFC 3264 §8.
    fn check(&mut self, body: &Bytes) -> Result<(), TestCaseError> {
        let text = std::str::from_utf8(body).unwrap();
        let parsed = sdp::parse(body).unwrap();
        prop_assert_eq!(parsed.to_bytes(), body);
        let origin = parsed.origin();
        let version: u64 = origin.session_version.parse().unwrap();
        let rest: String = text.lines().filter(|line| !line.starts_with("o=")).collect();
        if let Some((id, last_version, last_rest)) = &self.last {
            prop_assert_eq!(id, origin.session_id);
            let expected = if *last_rest == rest {
                *last_version
            } else {
                last_version + 1
            };
            prop_assert_eq!(version, expected);
        }
        self.last = Some((origin.session_id.to_owned(), version, rest));
        for index in 0..parsed.media().len() {
            let mut tags = HashSet::new();
            for attribute in parsed.media_attributes(index) {
                if let TypedAttribute::Crypto(value) = attribute.typed().unwrap() {
                    prop_assert!(tags.insert(value.split(' ').next().unwrap().to_owned()));
                }
            }
            let numbers: HashSet<_> = parsed.media()[index].formats.iter().collect();
            if parsed.media()[index].port != 0 {
                prop_assert_eq!(numbers.len(), parsed.media()[index].formats.len());
            }
        }
        Ok(())
    }
}

/// Our keys in a description.
fn keys(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("inline:"))
        .map(|(_, key)| key.to_owned())
        .collect()
}

/// An answer's m-lines mirror the offer's, and its formats are among those offered (RFC 3264 §6).
fn check_answer(offer: &str, answer: &[u8]) -> Result<(), TestCaseError> {
    let offer = sdp::parse(offer.as_bytes()).unwrap();
    let answer = sdp::parse(answer).unwrap();
    prop_assert_eq!(offer.media().len(), answer.media().len());
    for (offered, answered) in offer.media().iter().zip(answer.media()) {
        prop_assert_eq!(offered.protocol, answered.protocol);
        prop_assert!(offered.media.eq_ignore_ascii_case(answered.media));
        prop_assert!(answered.formats.iter().all(|format| offered.formats.contains(format)));
        prop_assert!(offered.port != 0 || answered.port == 0);
    }
    prop_assert!(answer.media().iter().filter(|media| media.port != 0).count() <= 1);
    Ok(())
}

/// What a leg requires of its encryption is never given up, in a description or in the relay.
fn check_encryption(session: &MediaSession, leg: LegId, body: &[u8]) -> Result<(), TestCaseError> {
    let parsed = sdp::parse(body).unwrap();
    let policy = &session.policy(leg).srtp;
    for (index, media) in parsed.media().iter().enumerate().filter(|(_, media)| media.port != 0) {
        let crypto = parsed
            .media_attributes(index)
            .filter(|attribute| attribute.is("crypto"))
            .count();
        let secure = matches!(media.protocol, Protocol::RtpSavp | Protocol::RtpSavpf);
        match policy.mode {
            SrtpMode::Off => prop_assert!(!secure && crypto == 0),
            SrtpMode::Optional => prop_assert!(!secure || crypto > 0),
            SrtpMode::Required => prop_assert!(crypto > 0),
        }
    }
    Ok(())
}

fn check_relay(session: &MediaSession) -> Result<(), TestCaseError> {
    let Some(config) = session.relay_config() else {
        return Ok(());
    };
    prop_assert!(config.streams.len() <= 1);
    prop_assert_eq!(config.streams.is_empty(), session.summary().is_none());
    for stream in &config.streams {
        prop_assert_eq!(session.summary().unwrap().path, stream.path());
        for leg in LegId::BOTH {
            let side = &stream.legs[leg];
            let policy = session.policy(leg);
            match policy.srtp.mode {
                SrtpMode::Off => prop_assert!(side.srtp.is_none()),
                SrtpMode::Optional => {}
                SrtpMode::Required => prop_assert!(side.srtp.is_some()),
            }
            if let Some(srtp) = &side.srtp {
                let rx = srtp.rx.as_ref().unwrap();
                prop_assert!(policy.srtp.suites.contains(&rx.suite()) && rx.suite() == srtp.tx.suite());
                prop_assert!(rx.key_salt() != srtp.tx.key_salt());
            }
            // What is sent one way must not be refused by the far side's direction.
            prop_assert_eq!(side.direction.sends(), stream.legs[leg.other()].direction.receives());
            prop_assert!(
                side.payloads
                    .rules
                    .iter()
                    .all(|rule| rule.from <= 127 && rule.to.unwrap() <= 127)
            );
            let from: HashSet<_> = side.payloads.rules.iter().map(|rule| rule.from).collect();
            prop_assert_eq!(from.len(), side.payloads.rules.len());
        }
    }
    for codec in session.summary().into_iter().flat_map(|summary| summary.codecs) {
        prop_assert!(
            LegId::BOTH
                .iter()
                .all(|&leg| session.policy(leg).codecs.contains(&codec))
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_keeps_the_rules(
        a in policy(),
        b in policy(),
        steps in prop::collection::vec(step(), 1..20),
        seed: u64,
    ) {
        let mut session = MediaSession::new(PerLeg::new(a, b));
        let mut ports = Ports::default();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut seen = PerLeg::new(Seen::default(), Seen::default());
        let mut offered: PerLeg<Bytes> = PerLeg::default();
        let mut offer_of = None;
        let mut ours: PerLeg<HashSet<String>> = PerLeg::default();
        let mut released = 0;
        for step in steps {
            let relay_before = session.relay_config();
            let waits_before = session.awaits_answer_of();
            let mut sent = Vec::new();
            let mut failed = false;
            let step = match (step, session.awaits_answer_of()) {
                (Step::Agree(agreement), Some(leg)) => Step::Answer(leg, agreement.answer(&offered[leg])),
                (Step::Agree(_), None) => continue,
                (step, _) => step,
            };
            match step {
                Step::Agree(_) => unreachable!("made an answer above"),
                Step::Offer(leg, body) => match session.offer(leg, body.as_bytes(), &mut ports, &mut rng) {
                    Ok(offer) => {
                        offer_of = Some((leg, body));
                        sent.push((leg.other(), offer));
                        prop_assert_eq!(session.awaits_answer_of(), Some(leg.other()));
                    }
                    Err(_) => failed = true,
                },
                Step::Answer(leg, body) => match session.answer(leg, body.as_bytes(), &mut rng) {
                    Ok(next) if next.is_empty() => offer_of = None,
                    Ok(next) => {
                        if session.awaits_answer_of().is_none() {
                            let (offerer, offer) = offer_of.as_ref().unwrap();
                            prop_assert_eq!(*offerer, leg.other());
                            check_answer(offer, &next)?;
                        }
                        sent.push((leg.other(), next));
                    }
                    Err(_) => failed = true,
                },
                Step::Both(leg, body) => match session.answer_both(leg, body.as_bytes(), &mut rng) {
                    Ok(answers) => {
                        let (offerer, offer) = offer_of.take().unwrap();
                        prop_assert_eq!(offerer, leg.other());
                        check_answer(&offer, &answers[offerer])?;
                        check_answer(&body, &answers[leg])?;
                        let PerLeg([a, b]) = answers;
                        sent.extend([(LegId::A, a), (LegId::B, b)]);
                    }
                    Err(_) => failed = true,
                },
                Step::Originate(leg) => match session.originate(leg, &mut ports, &mut rng) {
                    Ok(offer) => {
                        offer_of = None;
                        sent.push((leg, offer));
                    }
                    Err(_) => failed = true,
                },
                Step::Reject => {
                    let was_open = waits_before.is_some();
                    prop_assert_eq!(session.reject(), was_open);
                    prop_assert_eq!(session.relay_config(), relay_before.clone());
                }
                Step::Confirm => session.confirm(),
            }
            if failed {
                prop_assert_eq!(session.relay_config(), relay_before);
                prop_assert_eq!(session.awaits_answer_of(), waits_before);
            }
            for (leg, body) in &sent {
                seen[*leg].check(body)?;
                offered[*leg] = body.clone();
                check_encryption(&session, *leg, body)?;
                ours[*leg].extend(keys(body));
            }
            // No key of ours is ever shown to both legs.
            prop_assert!(ours[LegId::A].is_disjoint(&ours[LegId::B]));
            check_relay(&session)?;
            released += session.take_released().len();
        }
        released += session.close().len();
        prop_assert_eq!(released, usize::from(ports.leases), "every lease comes back exactly once");
    }

    #[test]
    fn sessions_share_no_key(seed: u64) {
        let policy = LegPolicy {
            codecs: vec![Codec::Pcmu],
            srtp: SrtpPolicy::required(SrtpSuite::ALL.to_vec()),
            dtmf: DtmfPolicy::default(),
            source: SourcePolicy::Signalled,
            family: AddressFamily::V4,
            rtcp_mux: false,
            dscp: None,
            idle: None,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut all = HashSet::new();
        for _ in 0..4 {
            let mut session = MediaSession::new(PerLeg::new(policy.clone(), policy.clone()));
            let offer = session.originate(LegId::B, &mut Ports::default(), &mut rng).unwrap();
            let keys = keys(&offer);
            prop_assert_eq!(keys.len(), SrtpSuite::ALL.len());
            for key in keys {
                prop_assert!(all.insert(key));
            }
        }
    }
}
