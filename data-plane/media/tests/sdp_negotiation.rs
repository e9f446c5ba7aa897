//! Offer/answer through the edge, compared description by description.
//!
//! Each file of `tests/sdp_negotiation/` holds cases. A case sets policies and then gives, step by step, a description
//! that arrives and the one that has to leave:
//!
//! ```text
//! case plain call
//! policy b codecs=pcma,pcmu
//! > offer a
//! m=audio 4000 RTP/AVP 0
//! <
//! o=- ID 1 IN IP4 198.51.100.2
//! ...
//! > relay
//! <
//! a local=1 remote=192.0.2.10:4000/4001 ...
//! ```
//!
//! Descriptions that arrive are completed: `v=0`, an `o=` line and, where it has none, a `c=` line of leg A
//! (192.0.2.10) or leg B (203.0.113.20). Descriptions that leave are shown without `v=0`, `s=-` and `t=0 0`, which
//! every one of them must have, with the session id as `ID` and our keys as `KEY1`, `KEY2`, … in order of appearance;
//! peers write their keys as `inline:PEER1` and so on. Other steps: `originate`, `both`, `reject`, `relay`, `summary`,
//! `released`, `supervise`. To write the outcome into the files, for reading it before it is kept: `BLESS_SDP=1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_media::SrtpSuite;
use trunkline_media::codec::Codec;
use trunkline_media::negotiate::{
    AddressFamily, DtmfMethod, DtmfPolicy, LegPolicy, MediaSession, NegotiationError, PortAllocator, PortLease,
    PortsExhausted, SrtpMode, SrtpPolicy,
};
use trunkline_media::relay::{IdleTimers, LegId, PerLeg, PortId, SourcePolicy, SrtpParams};

#[test]
fn audio() {
    replay("audio.txt");
}

#[test]
fn encryption() {
    replay("encryption.txt");
}

#[test]
fn streams_and_addresses() {
    replay("streams.txt");
}

#[test]
fn exchanges() {
    replay("exchanges.txt");
}

#[test]
fn malformed() {
    replay("malformed.txt");
}

fn replay(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sdp_negotiation")
        .join(name);
    let expected = fs::read_to_string(&path).unwrap();
    let mut actual = String::new();
    let mut cases = 0;
    for case in expected.split_inclusive("\n\n") {
        if case.lines().any(|line| line.starts_with("case ")) {
            cases += 1;
            actual.push_str(&run(case));
        } else {
            actual.push_str(case);
        }
    }
    assert!(cases > 0, "{name} holds no case");
    if env::var_os("BLESS_SDP").is_some() {
        fs::write(&path, &actual).unwrap();
    }
    for (left, right) in expected.split("\n\n").zip(actual.split("\n\n")) {
        assert!(left == right, "{name}: expected\n\n{left}\n\nbut got\n\n{right}\n");
    }
    assert_eq!(expected, actual);
}

/// Runs one case and writes it again with what really happened.
fn run(case: &str) -> String {
    let mut script = String::new();
    let mut policies = PerLeg::new(policy(LegId::A), policy(LegId::B));
    let mut call: Option<Call> = None;
    let mut lines = case.trim_end().lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("policy ") {
            script.push_str(line);
            script.push('\n');
            set_policy(&mut policies, text);
        } else if let Some(step) = line.strip_prefix("> ") {
            let _ = writeln!(script, "{line}");
            let mut body = Vec::new();
            while let Some(line) = lines.next_if(|line| *line != "<" && !line.starts_with("> ")) {
                let _ = writeln!(script, "{line}");
                body.push(line);
            }
            lines.next_if_eq(&"<");
            while lines.next_if(|line| !line.starts_with("> ")).is_some() {}
            let call = call.get_or_insert_with(|| Call::new(policies.clone()));
            let _ = write!(script, "<\n{}", call.step(step, &body));
        } else {
            let _ = writeln!(script, "{line}");
        }
    }
    if case.ends_with("\n\n") {
        script.push('\n');
    }
    script
}

fn policy(leg: LegId) -> LegPolicy {
    LegPolicy {
        codecs: vec![Codec::Opus, Codec::Pcmu, Codec::Pcma],
        srtp: SrtpPolicy::off(),
        dtmf: DtmfPolicy::default(),
        source: SourcePolicy::Signalled,
        family: AddressFamily::V4,
        rtcp_mux: false,
        dscp: Some(if leg == LegId::A { 46 } else { 34 }),
        idle: None,
    }
}

fn set_policy(policies: &mut PerLeg<LegPolicy>, text: &str) {
    let mut words = text.split(' ');
    let policy = &mut policies[leg(words.next().unwrap())];
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "codecs" => policy.codecs = value.split(',').map(|name| name.parse().unwrap()).collect(),
            "off" | "optional" | "required" => {
                policy.srtp = SrtpPolicy {
                    mode: match name {
                        "off" => SrtpMode::Off,
                        "optional" => SrtpMode::Optional,
                        _ => SrtpMode::Required,
                    },
                    suites: value
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(|name| SrtpSuite::parse(name).unwrap().0)
                        .collect(),
                }
            }
            "events" => policy.dtmf.payload = value.parse().unwrap(),
            "inband" => policy.dtmf.method = DtmfMethod::InBand,
            "nodtmf" => policy.dtmf.method = DtmfMethod::None,
            "mux" => policy.rtcp_mux = true,
            "v6" => policy.family = AddressFamily::V6,
            "latch" => {
                policy.source = SourcePolicy::Latch {
                    signalling_ip: value.parse().unwrap(),
                }
            }
            "idle" => policy.idle = Some(IdleTimers::default()),
            other => panic!("unknown policy word {other}"),
        }
    }
}

fn leg(name: &str) -> LegId {
    match name {
        "a" => LegId::A,
        "b" => LegId::B,
        other => panic!("no leg {other}"),
    }
}

struct Call {
    session: MediaSession,
    ports: Ports,
    rng: StdRng,
    names: Names,
}

/// Leases from 20000 on leg A's address and 30000 on leg B's.
#[derive(Default)]
struct Ports {
    leases: u32,
    exhausted_after: Option<u32>,
}

impl PortAllocator for Ports {
    fn allocate(&mut self, leg: LegId, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        if self.exhausted_after.is_some_and(|most| self.leases >= most) {
            return Err(PortsExhausted);
        }
        self.leases += 1;
        let ip: IpAddr = match (leg, family) {
            (LegId::A, AddressFamily::V4) => "198.51.100.1".parse().unwrap(),
            (LegId::B, AddressFamily::V4) => "198.51.100.2".parse().unwrap(),
            (LegId::A, AddressFamily::V6) => "2001:db8::1".parse().unwrap(),
            (LegId::B, AddressFamily::V6) => "2001:db8::2".parse().unwrap(),
        };
        let port = u16::try_from(self.leases * 2).unwrap() + if leg == LegId::A { 20_000 } else { 30_000 };
        Ok(PortLease {
            id: PortId(self.leases),
            rtp: SocketAddr::new(ip, port),
            rtcp: SocketAddr::new(ip, port + 1),
        })
    }
}

impl Call {
    fn new(policies: PerLeg<LegPolicy>) -> Self {
        Call {
            session: MediaSession::new(policies),
            ports: Ports::default(),
            rng: StdRng::seed_from_u64(1),
            names: Names::default(),
        }
    }

    fn step(&mut self, step: &str, body: &[&str]) -> String {
        let (verb, argument) = step.split_once(' ').unwrap_or((step, ""));
        let Call {
            session,
            ports,
            rng,
            names,
        } = self;
        match verb {
            "offer" => names.show(session.offer(leg(argument), &complete(leg(argument), body), ports, rng)),
            "originate" => names.show(session.originate(leg(argument), ports, rng)),
            "answer" => names.show(session.answer(leg(argument), &complete(leg(argument), body), rng)),
            "both" => match session.answer_both(leg(argument), &complete(leg(argument), body), rng) {
                Ok(PerLeg([a, b])) => format!("to a\n{}to b\n{}", names.show(Ok(a)), names.show(Ok(b))),
                Err(error) => names.show(Err(error)),
            },
            "reject" => format!("{}\n", session.reject()),
            "released" => {
                let ids: Vec<_> = session
                    .take_released()
                    .iter()
                    .map(|lease| lease.id.0.to_string())
                    .collect();
                format!("ports {}\n", ids.join(" ")).replace(" \n", " none\n")
            }
            "ports" => {
                ports.exhausted_after = Some(argument.parse().unwrap());
                String::new()
            }
            "supervise" => {
                session.supervise();
                String::new()
            }
            "relay" => relay(session, names),
            "summary" => format!("{:?}\n", session.summary()),
            other => panic!("unknown step {other}"),
        }
    }
}

/// Completes a description that arrives. One that begins with `v=` or `raw` is taken as it is.
fn complete(leg: LegId, lines: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    let raw = lines.first() == Some(&"raw");
    if !raw {
        text.push_str("v=0\r\no=phone 1 1 IN IP4 192.0.2.99\r\ns=call\r\n");
        if !lines.iter().any(|line| line.starts_with("c=")) {
            let ip = if leg == LegId::A { "192.0.2.10" } else { "203.0.113.20" };
            let _ = write!(text, "c=IN IP4 {ip}\r\n");
        }
        text.push_str("t=0 0\r\n");
    }
    for line in lines.iter().skip(usize::from(raw)) {
        text.push_str(&peer_key(line));
        text.push_str("\r\n");
    }
    text.into_bytes()
}

/// Replaces `inline:PEER<n>` by a key of the suite's length.
fn peer_key(line: &str) -> String {
    let Some((head, tail)) = line.split_once("inline:PEER") else {
        return line.to_owned();
    };
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    let fill = tail[..digits].parse().unwrap();
    let suite = head
        .split(' ')
        .find_map(SrtpSuite::parse)
        .map_or(SrtpSuite::AesCm128HmacSha1_80, |(suite, _)| suite);
    format!(
        "{head}inline:{}{}",
        STANDARD.encode(vec![fill; suite.key_salt_len()]),
        &tail[digits..]
    )
}

/// Names for keys, so that a case can say which is which.
#[derive(Default)]
struct Names(HashMap<Vec<u8>, usize>);

impl Names {
    fn name(&mut self, key: &[u8]) -> String {
        if key.iter().all(|octet| *octet == key[0]) {
            return format!("PEER{}", key[0]);
        }
        let next = self.0.len() + 1;
        format!("KEY{}", self.0.entry(key.to_vec()).or_insert(next))
    }

    fn show(&mut self, result: Result<bytes::Bytes, NegotiationError>) -> String {
        let body = match result {
            Ok(body) if body.is_empty() => return "nothing\n".to_owned(),
            Ok(body) => body,
            Err(NegotiationError { leg, kind }) => {
                let warning = kind.warn_code().map_or(String::new(), |code| format!(" {code}"));
                return format!("error {leg:?} {}{warning}\n", kind.label());
            }
        };
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.ends_with("\r\n"));
        let mut shown = String::new();
        let mut session_lines = Vec::new();
        for line in text.split_terminator("\r\n") {
            match line {
                "v=0" | "s=-" | "t=0 0" => session_lines.push(line),
                _ => {
                    let _ = writeln!(shown, "{}", self.normalise(line));
                }
            }
        }
        assert_eq!(session_lines, ["v=0", "s=-", "t=0 0"]);
        shown
    }

    fn normalise(&mut self, line: &str) -> String {
        if let Some(rest) = line.strip_prefix("o=- ") {
            let (id, rest) = rest.split_once(' ').unwrap();
            assert!(id.parse::<i64>().unwrap() >= 0);
            return format!("o=- ID {rest}");
        }
        match line.split_once("inline:") {
            Some((head, key)) => format!("{head}inline:{}", self.name(&STANDARD.decode(key).unwrap())),
            None => line.to_owned(),
        }
    }
}

/// One line a leg: ports, where to, whom is believed, which way, keys, what becomes of each payload type.
fn relay(session: &MediaSession, names: &mut Names) -> String {
    let Some(config) = session.relay_config() else {
        return "none\n".to_owned();
    };
    let mut text = String::new();
    if config.streams.is_empty() {
        text.push_str("no stream\n");
    }
    for stream in &config.streams {
        for leg in LegId::BOTH {
            let side = &stream.legs[leg];
            let remote = side
                .remote
                .map_or("none".to_owned(), |remote| match remote.rtp.ip() == remote.rtcp.ip() {
                    true => format!("{}/{}", remote.rtp, remote.rtcp.port()),
                    false => format!("{}/{}", remote.rtp, remote.rtcp),
                });
            let source = match side.source {
                SourcePolicy::Signalled => String::new(),
                SourcePolicy::Latch { signalling_ip } => format!(" latch={signalling_ip}"),
            };
            let keys = side.srtp.as_ref().map_or(String::new(), |SrtpParams { rx, tx }| {
                let rx = names.name(rx.as_ref().unwrap().key_salt());
                format!(" {} rx={rx} tx={}", tx.suite(), names.name(tx.key_salt()))
            });
            let rules: Vec<_> = side
                .payloads
                .rules
                .iter()
                .map(|rule| {
                    let companion = if rule.companion { "*" } else { "" };
                    format!("{}>{}@{}{companion}", rule.from, rule.to.unwrap(), rule.clock_rate)
                })
                .collect();
            assert!(!side.payloads.pass_unlisted && !side.tones);
            let settings = &config.legs[leg];
            let _ = writeln!(
                text,
                "{} local={} remote={remote}{source} {:?}{}{keys} {} dscp={} round={}{}",
                if leg == LegId::A { "a" } else { "b" },
                side.ports.0,
                side.direction,
                if side.rtcp_mux { " mux" } else { "" },
                rules.join(" "),
                settings.dscp.unwrap(),
                side.round,
                if settings.idle.is_some() { " idle" } else { "" },
            );
        }
        let _ = writeln!(text, "{:?}", stream.path());
    }
    text
}
