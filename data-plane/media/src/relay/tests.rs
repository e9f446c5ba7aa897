//! One session between two phones on a virtual clock. Field bugs of other relays have a test each.

mod burst;
mod hostile;
mod latching;
mod lifecycle;
mod secure;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::*;
use crate::packet::PacketBuf;
use crate::rtcp;
use crate::rtp::RtpHeader;

/// Signalled RTP addresses of the phones.
const PHONE_A: &str = "192.0.2.10:40000";
const PHONE_B: &str = "198.51.100.20:50000";
const EF: u8 = 46 << 2;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn leg(ports: u32, remote: &str) -> StreamLeg {
    StreamLeg {
        ports: PortId(ports),
        rtcp_mux: false,
        remote: Some(RemoteMedia::with_next_port(address(remote))),
        direction: Direction::SendRecv,
        source: SourcePolicy::Signalled,
        round: 1,
        srtp: None,
        payloads: PayloadMap::transparent(),
        tones: false,
    }
}

fn config() -> SessionConfig {
    let leg_config = LegConfig {
        dscp: Some(46),
        idle: Some(IdleTimers::default()),
    };
    SessionConfig {
        legs: PerLeg::new(leg_config.clone(), leg_config),
        streams: SmallVec::from_iter([StreamConfig {
            legs: PerLeg::new(leg(1, PHONE_A), leg(2, PHONE_B)),
        }]),
    }
}

fn ports(leg: LegId, component: Component) -> LocalPort {
    LocalPort {
        pair: PortId(if leg == LegId::A { 1 } else { 2 }),
        component,
    }
}

/// A session with its clock.
struct Bench {
    session: RelaySession,
    config: SessionConfig,
    start: Instant,
    now: Instant,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the start of a test's clock"
    )]
    fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        Self {
            session: RelaySession::new(now, config.clone()),
            config,
            start: now,
            now,
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Changes one leg of the only stream and applies the result as a new offer/answer.
    fn renegotiate(&mut self, leg: LegId, change: impl FnOnce(&mut StreamLeg)) {
        let stream = &mut self.config.streams[0].legs;
        stream[LegId::A].round += 1;
        stream[LegId::B].round += 1;
        change(&mut stream[leg]);
        self.session.apply(self.now, self.config.clone());
    }

    /// Hands in a datagram; what is to be sent comes back with its way.
    fn send(&mut self, port: LocalPort, source: &str, datagram: &[u8]) -> Result<Sent, DropReason> {
        let mut octets = datagram.to_vec();
        octets.resize(datagram.len() + PacketBuf::HEADROOM, 0xEE);
        let mut packet = PacketBuf::new(&mut octets, datagram.len());
        match self
            .session
            .handle_packet(self.now, port, address(source), EF, &mut packet)
        {
            Verdict::Forward { from, destination } => Ok(Sent {
                from,
                destination,
                datagram: packet.as_slice().to_vec(),
            }),
            Verdict::Drop(reason) => Err(reason),
        }
    }

    fn rtp(&mut self, leg: LegId, source: &str, datagram: &[u8]) -> Result<Sent, DropReason> {
        self.send(ports(leg, Component::Rtp), source, datagram)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Sent {
    from: LocalPort,
    destination: SocketAddr,
    datagram: Vec<u8>,
}

fn voice(ssrc: u32, sequence: u16) -> Vec<u8> {
    media(ssrc, sequence, 0, u32::from(sequence) * 160, false, &[0x55; 160])
}

fn media(ssrc: u32, sequence: u16, payload_type: u8, timestamp: u32, marker: bool, payload: &[u8]) -> Vec<u8> {
    let header = RtpHeader {
        marker,
        payload_type,
        sequence,
        timestamp,
        ssrc,
        header_len: 12,
        padded: false,
    };
    [&header.to_bytes()[..], payload].concat()
}

fn receiver_report(ssrc: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    rtcp::write_receiver_report(&mut octets, ssrc, &[]);
    rtcp::write_source_description(&mut octets, ssrc, b"phone");
    octets
}

#[test]
fn rtp_goes_to_the_other_leg_unchanged_and_nowhere_else() {
    let mut bench = Bench::new(config());
    let a = bench.rtp(LegId::A, PHONE_A, &voice(1, 1)).unwrap();
    assert_eq!(
        a,
        Sent {
            from: ports(LegId::B, Component::Rtp),
            destination: address(PHONE_B),
            datagram: voice(1, 1)
        }
    );
    let b = bench.rtp(LegId::B, PHONE_B, &voice(2, 9)).unwrap();
    assert_eq!(
        b,
        Sent {
            from: ports(LegId::A, Component::Rtp),
            destination: address(PHONE_A),
            datagram: voice(2, 9)
        }
    );
    assert_eq!(bench.session.config().path(), MediaPath::Forward);
}

#[test]
fn only_the_signalled_address_and_port_is_believed() {
    let mut bench = Bench::new(config());
    for source in ["192.0.2.10:40002", "192.0.2.11:40000", PHONE_B] {
        assert_eq!(
            bench.rtp(LegId::A, source, &voice(1, 1)),
            Err(DropReason::WrongSource),
            "{source}"
        );
    }
    assert!(
        bench.rtp(LegId::A, "[::ffff:192.0.2.10]:40000", &voice(1, 1)).is_ok(),
        "dual-stack sockets map IPv4"
    );
    let stats = bench.session.stats(LegId::A);
    assert_eq!(
        (
            stats.drops.count(DropReason::WrongSource),
            stats.drops.total(),
            stats.rtp_received.packets
        ),
        (3, 3, 1)
    );
}

#[test]
fn rtcp_uses_the_odd_ports_and_needs_no_direction() {
    let mut bench = Bench::new(config());
    bench.renegotiate(LegId::A, |leg| leg.direction = Direction::Inactive);
    let report = receiver_report(1);
    let sent = bench
        .send(ports(LegId::A, Component::Rtcp), "192.0.2.10:40001", &report)
        .unwrap();
    assert_eq!(
        (sent.from, sent.destination),
        (ports(LegId::B, Component::Rtcp), address("198.51.100.20:50001"))
    );
    assert_eq!(sent.datagram, report);
    assert_eq!(
        bench.send(ports(LegId::A, Component::Rtp), PHONE_A, &report),
        Err(DropReason::WrongComponent)
    );
    assert_eq!(
        bench.send(ports(LegId::A, Component::Rtcp), "192.0.2.10:40001", &voice(1, 1)),
        Err(DropReason::WrongComponent)
    );
}

#[test]
fn rtcp_mux_may_be_on_either_leg_alone() {
    let mut config = config();
    config.streams[0].legs[LegId::A].rtcp_mux = true;
    let mut bench = Bench::new(config);
    let report = receiver_report(1);
    let sent = bench.rtp(LegId::A, PHONE_A, &report).unwrap();
    assert_eq!(
        (sent.from, sent.destination),
        (ports(LegId::B, Component::Rtcp), address("198.51.100.20:50001"))
    );
    let back = bench
        .send(ports(LegId::B, Component::Rtcp), "198.51.100.20:50001", &report)
        .unwrap();
    assert_eq!(
        (back.from, back.destination),
        (ports(LegId::A, Component::Rtp), address(PHONE_A))
    );
    let expected = [
        ports(LegId::A, Component::Rtp),
        ports(LegId::B, Component::Rtp),
        ports(LegId::B, Component::Rtcp),
    ];
    assert_eq!(bench.session.local_ports().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_not_media_is_counted_and_dropped() {
    let mut bench = Bench::new(config());
    let stun = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &stun), Err(DropReason::NotMedia));
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &[]), Err(DropReason::NotMedia));
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &[0x80, 0, 0]), Err(DropReason::Malformed));
    let mut padded = voice(1, 1);
    padded[0] |= 0x20;
    *padded.last_mut().unwrap() = 200;
    assert_eq!(bench.rtp(LegId::A, PHONE_A, &padded), Err(DropReason::Malformed));
    let mut report = receiver_report(1);
    report.pop();
    assert_eq!(
        bench.send(ports(LegId::A, Component::Rtcp), "192.0.2.10:40001", &report),
        Err(DropReason::Malformed)
    );
    let stranger = LocalPort {
        pair: PortId(77),
        component: Component::Rtp,
    };
    assert_eq!(
        bench.send(stranger, PHONE_A, &voice(1, 1)),
        Err(DropReason::UnknownPort)
    );
    assert_eq!(bench.session.stats(LegId::A).rtp_received.packets, 0);
}

#[test]
fn directions_are_enforced_on_both_legs() {
    // Direction of the edge on leg A; whether packets of A, and to A, pass.
    for (direction, from_a, to_a) in [
        (Direction::SendRecv, true, true),
        (Direction::SendOnly, false, true),
        (Direction::RecvOnly, true, false),
        (Direction::Inactive, false, false),
    ] {
        let mut bench = Bench::new(config());
        bench.renegotiate(LegId::A, |leg| leg.direction = direction);
        let expect = |passes, result: Result<Sent, DropReason>| match (passes, result) {
            (true, result) => assert!(result.is_ok(), "{direction:?} {result:?}"),
            (false, result) => assert_eq!(result, Err(DropReason::Direction), "{direction:?}"),
        };
        expect(from_a, bench.rtp(LegId::A, PHONE_A, &voice(1, 1)));
        expect(to_a, bench.rtp(LegId::B, PHONE_B, &voice(2, 1)));
    }
}

#[test]
fn packets_before_the_far_side_has_an_address_are_counted() {
    let mut config = config();
    config.streams[0].legs[LegId::B].remote = None;
    let mut bench = Bench::new(config);
    assert_eq!(
        bench.rtp(LegId::A, PHONE_A, &voice(1, 1)),
        Err(DropReason::NoDestination)
    );
    assert_eq!(
        bench.session.stats(LegId::A).rtp_received.packets,
        1,
        "the packet itself was good"
    );
    bench.renegotiate(LegId::B, |leg| {
        leg.remote = Some(RemoteMedia::with_next_port(address(PHONE_B)))
    });
    assert!(bench.rtp(LegId::A, PHONE_A, &voice(1, 2)).is_ok());
}

fn rule(from: u8, to: Option<u8>, companion: bool) -> PayloadRule {
    PayloadRule {
        from,
        to,
        clock_rate: 8000,
        companion,
    }
}

#[test]
fn payload_types_are_mapped_and_unlisted_ones_refused() {
    let mut config = config();
    config.streams[0].legs[LegId::A].payloads = PayloadMap {
        rules: SmallVec::from_iter([rule(0, Some(0), false), rule(96, Some(101), true), rule(13, None, true)]),
        pass_unlisted: false,
    };
    assert_eq!(config.path(), MediaPath::Rewrite);
    let mut bench = Bench::new(config);
    let sent = bench
        .rtp(LegId::A, PHONE_A, &media(1, 5, 96, 800, true, &[1, 0x80, 0, 160]))
        .unwrap();
    assert_eq!(
        sent.datagram,
        media(1, 5, 101, 800, true, &[1, 0x80, 0, 160]),
        "only the number changes"
    );
    for payload_type in [13, 18] {
        assert_eq!(
            bench.rtp(LegId::A, PHONE_A, &media(1, 6, payload_type, 960, false, &[0])),
            Err(DropReason::PayloadType)
        );
    }
}

/// A digit was counted three times because a relay gave each of the three end packets its own timestamp.
#[test]
fn dtmf_end_packets_keep_their_timestamp_marker_and_order() {
    let mut config = config();
    let payloads = SmallVec::from_iter([rule(0, Some(0), false), rule(101, Some(96), true)]);
    config.streams[0].legs[LegId::A].payloads = PayloadMap {
        rules: payloads,
        pass_unlisted: false,
    };
    let mut bench = Bench::new(config);
    let mut sent = Vec::new();
    for (sequence, marker, event) in [
        (10u16, true, [5, 0x0A, 0, 160]),
        (11, false, [5, 0x0A, 1, 64]),
        (12, false, [5, 0x8A, 1, 224]),
        (13, false, [5, 0x8A, 1, 224]),
        (14, false, [5, 0x8A, 1, 224]),
    ] {
        sent.push(
            bench
                .rtp(LegId::A, PHONE_A, &media(1, sequence, 101, 16_000, marker, &event))
                .unwrap()
                .datagram,
        );
        bench.advance(Duration::from_millis(20));
    }
    let headers: Vec<_> = sent
        .iter()
        .map(|datagram| RtpHeader::parse(datagram).unwrap())
        .collect();
    assert!(
        headers
            .iter()
            .all(|header| header.timestamp == 16_000 && header.payload_type == 96)
    );
    assert_eq!(
        headers.iter().map(|header| header.sequence).collect::<Vec<_>>(),
        [10, 11, 12, 13, 14]
    );
    assert_eq!(headers.iter().filter(|header| header.marker).count(), 1);
    assert_eq!(sent.iter().filter(|datagram| datagram[13] & 0x80 != 0).count(), 3);
    assert_eq!(
        bench.session.stats(LegId::A).duplicates,
        0,
        "end packets repeat an event, not a packet"
    );
}

#[test]
fn several_streams_have_their_own_ports_and_state() {
    let mut config = config();
    let video = StreamConfig {
        legs: PerLeg::new(leg(3, "192.0.2.10:42000"), leg(4, "198.51.100.20:52000")),
    };
    config.streams.push(video);
    let mut bench = Bench::new(config);
    let port = LocalPort {
        pair: PortId(4),
        component: Component::Rtp,
    };
    let sent = bench.send(port, "198.51.100.20:52000", &voice(3, 1)).unwrap();
    let expected = LocalPort {
        pair: PortId(3),
        component: Component::Rtp,
    };
    assert_eq!((sent.from, sent.destination), (expected, address("192.0.2.10:42000")));
    assert_eq!(
        bench.send(port, PHONE_B, &voice(3, 2)),
        Err(DropReason::WrongSource),
        "streams do not share sources"
    );
}

#[test]
fn loss_jitter_and_marks_are_measured_per_leg() {
    let mut config = config();
    let payloads = PayloadMap {
        rules: SmallVec::from_iter([rule(0, Some(0), false)]),
        pass_unlisted: false,
    };
    config.streams[0].legs[LegId::A].payloads = payloads;
    config.legs[LegId::B].dscp = Some(0);
    let mut bench = Bench::new(config);
    for sequence in 0..200u16 {
        bench.now = bench.start + Duration::from_millis(20) * u32::from(sequence);
        if sequence % 10 != 5 {
            bench.rtp(LegId::A, PHONE_A, &voice(1, sequence)).unwrap();
            bench.rtp(LegId::B, PHONE_B, &voice(2, sequence)).unwrap();
        }
    }
    let (a, b) = (bench.session.stats(LegId::A), bench.session.stats(LegId::B));
    assert_eq!(
        (a.expected, a.lost, a.rtp_received.packets, a.rtp_received.octets),
        (200, 20, 180, 180 * 160)
    );
    assert_eq!(
        (a.rtp_sent.packets, a.dscp_mismatches, b.dscp_mismatches),
        (180, 0, 180)
    );
    assert!(a.jitter < Duration::from_micros(10), "{:?}", a.jitter);
    let quality = a.quality(crate::stats::CodecImpairment::G711);
    assert!(quality.mos > 2.0 && quality.mos < 4.0, "ten percent loss: {quality:?}");
}

#[test]
fn the_round_trip_to_a_leg_comes_from_its_report_on_a_passed_on_sender_report() {
    let mut bench = Bench::new(config());
    let info = rtcp::SenderInfo {
        ntp: 0x1111_2222_3333_4444,
        ..Default::default()
    };
    let mut report = Vec::new();
    rtcp::write_sender_report(&mut report, 1, &info, &[]);
    bench
        .send(ports(LegId::A, Component::Rtcp), "192.0.2.10:40001", &report)
        .unwrap();
    bench.advance(Duration::from_millis(1080));
    let block = rtcp::ReportBlock {
        ssrc: 1,
        fraction_lost: 26,
        cumulative_lost: 7,
        jitter: 12,
        last_sr: 0x2222_3333,
        delay_since_last_sr: 65_536,
        ..Default::default()
    };
    let mut answer = Vec::new();
    rtcp::write_receiver_report(&mut answer, 2, &[block]);
    bench
        .send(ports(LegId::B, Component::Rtcp), "198.51.100.20:50001", &answer)
        .unwrap();
    let stats = bench.session.stats(LegId::B);
    assert_eq!(stats.round_trip, Some(Duration::from_millis(80)));
    assert_eq!(
        stats.remote_report,
        Some(RemoteReport {
            fraction_lost: 26,
            cumulative_lost: 7,
            jitter: 12
        })
    );
    assert_eq!(bench.session.stats(LegId::A).round_trip, None);
}

#[test]
fn streams_beyond_the_limit_are_left_out() {
    let mut config = config();
    for number in 0..20 {
        let stream = StreamConfig {
            legs: PerLeg::new(leg(10 + number, PHONE_A), leg(40 + number, PHONE_B)),
        };
        config.streams.push(stream);
    }
    let session = Bench::new(config).session;
    assert_eq!(session.config().streams.len(), MAX_STREAMS);
}

#[test]
fn the_path_is_the_cheapest_that_does() {
    assert!(MediaPath::Forward < MediaPath::Rewrite);
    assert!(MediaPath::Rewrite < MediaPath::Recrypt && MediaPath::Recrypt < MediaPath::Tones);
    let mut config = config();
    config.streams[0].legs[LegId::B].tones = true;
    assert_eq!(config.path(), MediaPath::Tones);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Ten thousand calls must fit a small machine, and whoever makes a session larger should know: its two sides and
/// configuration, and what a side has beside them when it is SRTP.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_session_is_small() {
    let sizes = (size_of::<RelaySession>(), size_of::<side::SrtpSide>());
    assert!(sizes.0 <= 1248 && sizes.1 <= 336, "{sizes:?}");
}
