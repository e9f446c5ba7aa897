//! Time the relay core takes for one packet: `cargo bench -p trunkline-media --bench relay`, then part of a name for some.
//!
//! 1024 sessions in turn, packets of 20 ms of G.711 from leg A. A packet is copied into its slot first, as a receive call would
//! put it there; with an SRTP leg A it was sealed before the clock runs.

mod harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{Harness, time};
use smallvec::SmallVec;
use trunkline_media::SrtpSuite;
use trunkline_media::packet::PacketBuf;
use trunkline_media::relay::{
    BurstPacket, Component, Direction, LegConfig, LocalPort, PayloadMap, PayloadRule, PerLeg, PortId, RelaySession,
    RemoteMedia, SessionConfig, SessionTable, SourcePolicy, SrtpParams, StreamConfig, StreamLeg, Verdict, relay_burst,
};
use trunkline_media::rtp::RtpHeader;
use trunkline_media::srtp::{Protect, SrtpKey};

const SESSIONS: usize = 1024;
const LEN: usize = 12 + 160;
/// Room for the packet and any trailer.
const SLOT: usize = LEN + PacketBuf::HEADROOM;
const SUITE: SrtpSuite = SrtpSuite::AesCm128HmacSha1_80;

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

/// What arrives for every session, once round.
struct Load {
    now: Instant,
    table: Table,
    phones: Vec<Protect>,
    secure_in: bool,
    /// One datagram a session.
    arriving: Vec<Vec<u8>>,
    slots: Vec<Vec<u8>>,
    sequence: u16,
}

fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 40_000))
}

const PORT: LocalPort = LocalPort {
    pair: PortId(1),
    component: Component::Rtp,
};

impl Load {
    fn new(a: Option<SrtpSuite>, b: Option<SrtpSuite>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a bench starts its own clock")]
        let now = Instant::now();
        let mut load = Self {
            now,
            table: Table(Vec::new()),
            phones: Vec::new(),
            secure_in: a.is_some(),
            arriving: Vec::new(),
            slots: vec![vec![0; SLOT]; SESSIONS],
            sequence: 0,
        };
        for number in 0..SESSIONS {
            let key = |suite: SrtpSuite, seed: u8| {
                let mut material = vec![seed; suite.key_salt_len()];
                material[..8].copy_from_slice(&number.to_be_bytes());
                SrtpKey::new(suite, &material).expect("the material has the suite's length")
            };
            let leg = |ports: u32, suite: Option<SrtpSuite>| StreamLeg {
                ports: PortId(ports),
                rtcp_mux: false,
                remote: Some(RemoteMedia::with_next_port(remote())),
                direction: Direction::SendRecv,
                source: SourcePolicy::Signalled,
                round: 1,
                srtp: suite.map(|suite| SrtpParams {
                    rx: Some(key(suite, 1)),
                    tx: key(suite, 2),
                }),
                payloads: PayloadMap {
                    rules: SmallVec::from_iter([PayloadRule {
                        from: 0,
                        to: Some(0),
                        clock_rate: 8000,
                        companion: false,
                    }]),
                    pass_unlisted: false,
                },
                tones: false,
            };
            let config = SessionConfig {
                legs: PerLeg::new(LegConfig::default(), LegConfig::default()),
                streams: SmallVec::from_iter([StreamConfig {
                    legs: PerLeg::new(leg(1, a), leg(2, b)),
                }]),
            };
            load.phones.push(Protect::new(&key(a.unwrap_or(SUITE), 1)));
            load.table.0.push(RelaySession::new(now, config));
        }
        load
    }

    /// The next packet of every phone; not timed.
    fn arrive(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        self.now += Duration::from_millis(20);
        self.arriving.clear();
        for phone in &mut self.phones {
            let header = RtpHeader {
                marker: false,
                payload_type: 0,
                sequence: self.sequence,
                timestamp: u32::from(self.sequence) * 160,
                ssrc: 9,
                header_len: 12,
                padded: false,
            };
            let mut datagram = header.to_bytes().to_vec();
            datagram.resize(SLOT, 0xD5);
            let mut packet = PacketBuf::new(&mut datagram, LEN);
            if self.secure_in {
                phone.protect_rtp(&mut packet).expect("sequence numbers go up");
            }
            let len = packet.len();
            datagram.truncate(len);
            self.arriving.push(datagram);
        }
    }

    fn receive<'s>(arriving: &[u8], slot: &'s mut [u8]) -> PacketBuf<'s> {
        slot[..arriving.len()].copy_from_slice(arriving);
        PacketBuf::new(slot, arriving.len())
    }

    fn one_by_one(&mut self) -> usize {
        let mut forwarded = 0;
        for ((session, arriving), slot) in self.table.0.iter_mut().zip(&self.arriving).zip(&mut self.slots) {
            let mut packet = Self::receive(arriving, slot);
            let verdict = session.handle_packet(self.now, PORT, remote(), 0, &mut packet);
            forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
        }
        forwarded
    }

    fn bursts(&mut self, size: usize) -> usize {
        let mut forwarded = 0;
        let bursts = self.arriving.chunks(size).zip(self.slots.chunks_mut(size));
        for (number, (arriving, slots)) in bursts.enumerate() {
            let mut packets = SmallVec::<[BurstPacket<'_, usize>; 64]>::new();
            for (at, (arriving, slot)) in arriving.iter().zip(slots).enumerate() {
                let packet = Self::receive(arriving, slot);
                packets.push(BurstPacket::new(number * size + at, PORT, remote(), 0, packet));
            }
            relay_burst(self.now, &mut self.table, &mut packets);
            forwarded += packets
                .iter()
                .filter(|packet| matches!(packet.verdict, Verdict::Forward { .. }))
                .count();
        }
        forwarded
    }
}

fn measure(harness: &Harness, name: &str, load: &mut Load, relay: impl Fn(&mut Load) -> usize) {
    harness.measure(name, SESSIONS, || {
        load.arrive();
        let mut forwarded = 0;
        let spent = time(|| forwarded = relay(load));
        assert_eq!(forwarded, SESSIONS, "a packet that is dropped is cheap");
        spent
    });
}

fn main() {
    let harness = Harness::from_args();
    let aes_256 = SrtpSuite::AesCm256HmacSha1_80;
    let gcm = SrtpSuite::AeadAes128Gcm;
    for (name, a, b) in [
        ("RTP to RTP", None, None),
        ("RTP to SRTP", None, Some(SUITE)),
        ("SRTP to RTP", Some(SUITE), None),
        ("SRTP to SRTP", Some(SUITE), Some(SUITE)),
        ("SRTP to SRTP, AES-256", Some(aes_256), Some(aes_256)),
        ("SRTP to SRTP, GCM", Some(gcm), Some(gcm)),
    ] {
        let mut load = Load::new(a, b);
        measure(&harness, &format!("{name}, one by one"), &mut load, Load::one_by_one);
        for size in [4, 16, 64] {
            measure(&harness, &format!("{name}, burst of {size}"), &mut load, |load| {
                load.bursts(size)
            });
        }
    }
}
