//! Offer/answer through the edge: two legs send anything in any order.
//!
//! Whatever happens, a description that leaves parses, names none of the peers' addresses, and every port that was
//! leased is given back once.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_media::SrtpSuite;
use trunkline_media::codec::Codec;
use trunkline_media::negotiate::{
    AddressFamily, DtmfMethod, DtmfPolicy, LegPolicy, MediaSession, PortAllocator, PortLease, PortsExhausted,
    SrtpPolicy,
};
use trunkline_media::relay::{LegId, PerLeg, PortId, SourcePolicy};
use trunkline_media::sdp;

/// Separates the steps in an input.
const SEPARATOR: u8 = b'|';

/// Two policy octets, then steps: an octet that says which, and its body up to the separator.
pub fn run(data: &[u8]) {
    let &[a, b, ref steps @ ..] = data else { return };
    let mut session = MediaSession::new(PerLeg::new(policy(a), policy(b)));
    let mut ports = Ports::default();
    let mut rng = StdRng::seed_from_u64(u64::from(a) << 8 | u64::from(b));
    for step in steps.split(|octet| *octet == SEPARATOR).take(24) {
        let Some((&what, body)) = step.split_first() else {
            continue;
        };
        let leg = if what & 1 == 0 { LegId::A } else { LegId::B };
        let sent = match (what >> 1) % 6 {
            0 => session
                .offer(leg, body, &mut ports, &mut rng)
                .ok()
                .into_iter()
                .collect(),
            1 => session.answer(leg, body, &mut rng).ok().into_iter().collect(),
            2 => session
                .answer_both(leg, body, &mut rng)
                .map_or(Vec::new(), |PerLeg(both)| both.into()),
            3 => session.originate(leg, &mut ports, &mut rng).ok().into_iter().collect(),
            4 => {
                session.reject();
                Vec::new()
            }
            _ => {
                session.confirm();
                Vec::new()
            }
        };
        sent.iter().for_each(check);
        ports
            .returned
            .extend(session.take_released().iter().map(|lease| lease.id.0));
        if let Some(config) = session.relay_config() {
            assert!(session.summary().is_some() || !format!("{config:?}").is_empty());
        }
    }
    ports.returned.extend(session.close().iter().map(|lease| lease.id.0));
    let once: HashSet<_> = ports.returned.iter().copied().collect();
    assert_eq!(once.len(), ports.returned.len(), "a port was given back twice");
    assert_eq!(once.len(), usize::from(ports.leased), "a port was not given back");
}

/// A description of ours: it parses, and wherever media is to go is one of our ports.
fn check(body: &Bytes) {
    if body.is_empty() {
        return;
    }
    let description = sdp::parse(body).unwrap_or_else(|error| panic!("{error}: {}", body.escape_ascii()));
    for (index, media) in description.media().iter().enumerate() {
        if media.port == 0 {
            continue;
        }
        let address = description.media_address(index).expect("our own m-line has an address");
        assert!(OURS.contains(&address.rtp.ip()), "{}", body.escape_ascii());
        assert!(!media.formats.is_empty());
    }
}

const OURS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

#[derive(Default)]
struct Ports {
    leased: u16,
    returned: Vec<u32>,
}

impl PortAllocator for Ports {
    fn allocate(&mut self, _: LegId, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        let ip = match family {
            AddressFamily::V4 => OURS[0],
            AddressFamily::V6 => OURS[1],
        };
        self.leased += 1;
        Ok(PortLease {
            id: PortId(self.leased.into()),
            rtp: SocketAddr::new(ip, 20_000 + 2 * self.leased),
            rtcp: SocketAddr::new(ip, 20_001 + 2 * self.leased),
        })
    }
}

fn policy(octet: u8) -> LegPolicy {
    let suites = vec![SrtpSuite::AesCm128HmacSha1_80, SrtpSuite::AeadAes256Gcm];
    LegPolicy {
        codecs: if octet & 1 == 0 {
            vec![Codec::Opus, Codec::Pcmu, Codec::Pcma]
        } else {
            vec![Codec::Pcma, Codec::G722]
        },
        srtp: match octet >> 1 & 3 {
            0 => SrtpPolicy::off(),
            1 => SrtpPolicy::optional(suites),
            _ => SrtpPolicy::required(suites),
        },
        dtmf: DtmfPolicy {
            method: if octet & 8 == 0 {
                DtmfMethod::RtpEvents
            } else {
                DtmfMethod::InBand
            },
            payload: 101,
        },
        source: SourcePolicy::Signalled,
        family: if octet & 16 == 0 {
            AddressFamily::V4
        } else {
            AddressFamily::V6
        },
        rtcp_mux: octet & 32 != 0,
        dscp: Some(46),
        idle: None,
    }
}
