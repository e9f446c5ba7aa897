//! Two softphones of another make talk through the edge: each hears the other's tone, and what is on the wire is what
//! the trunks ask for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use trunkline_proto::v1::route_match::User as UserMatch;
use trunkline_proto::v1::route_target::Target;
use trunkline_proto::v1::{Call, CallActivity, MediaLeg, Route, RouteMatch, RouteTarget, TransportProtocol};
use trunkline_tests::api::Api;
use trunkline_tests::baresip::{Baresip, Setup};
use trunkline_tests::capture::{Capture, Packet};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, eventually, talk};
use trunkline_tests::fixtures::{create_route, create_trunk, create_users, trunk, users};
use trunkline_tests::tone::{RATE, Recording, decode_pcma, share};

const UDP_PORT: u16 = 8060;
const TLS_PORT: u16 = 8061;
const CALLER_TONE: f64 = 440.0;
const CALLEE_TONE: f64 = 620.0;
/// How long they talk; jitter buffers and first packets cost some of it.
const TALK: Duration = Duration::from_secs(4);
const HEARD: f64 = 2.5;
const RTP_HEADER: usize = 12;
/// 20 ms of G.711.
const PAYLOAD: usize = 160;
/// Tag of AES_CM_128_HMAC_SHA1_80.
const TAG: usize = 10;

#[tokio::test]
async fn tones_pass_both_ways_over_tls_and_srtp() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "secure", trunk("Secure", TransportProtocol::Tls, TLS_PORT))
        .await
        .unwrap();
    let users = users(1, 2);
    create_users(&api, "trunks/secure", &users).await.unwrap();
    cluster.synced(0).await.unwrap();

    let registrar = SocketAddr::new(cluster.sip(0), TLS_PORT);
    let mut capture = Capture::start(cluster.dir(), cluster.sip(0)).await.unwrap();
    let ca = cluster.control_dir().join("ca.pem");
    let secure = Some(ca.as_path());
    let setup = Setup {
        user: &users[0],
        registrar,
        secure,
        port: 21_000,
        tone: CALLER_TONE,
    };
    let mut caller = Baresip::start(cluster.dir(), &setup).await.unwrap();
    let setup = Setup {
        user: &users[1],
        registrar,
        secure,
        port: 22_000,
        tone: CALLEE_TONE,
    };
    let mut callee = Baresip::start(cluster.dir(), &setup).await.unwrap();

    converse(
        &mut caller,
        &mut callee,
        &format!("sip:{}@{registrar};transport=tls", users[1].name),
    )
    .await;
    capture.stop().await.unwrap();

    let call = only_call(&api).await;
    assert_eq!(
        (call.inbound_trunk.as_str(), call.outbound_trunk.as_str()),
        ("trunks/secure", "trunks/secure")
    );
    for leg in &call.media {
        assert_eq!(
            (leg.codec.as_str(), leg.srtp_suite.as_str()),
            ("PCMA/8000", "AES_CM_128_HMAC_SHA1_80")
        );
        assert_talked(leg);
    }

    // On the wire: signalling marked CS3 and inside TLS, media marked EF and encrypted.
    let worker = cluster.sip(0);
    let signalling = capture
        .read(&format!(
            "tcp.srcport == {TLS_PORT} && tcp.len > 0 && ip.src == {worker}"
        ))
        .unwrap();
    assert!(!signalling.is_empty());
    assert!(
        signalling.iter().all(|packet| packet.dscp == 24),
        "{:?}",
        dscps(&signalling)
    );
    assert_eq!(
        capture.readable_sdp().unwrap().len(),
        0,
        "no SDP, and so no key, can be read"
    );
    let media = media(&capture, &format!("udp && ip.src == {worker}"));
    assert!(media.len() > 200, "{} packets", media.len());
    assert!(media.iter().all(|packet| packet.dscp == 46), "{:?}", dscps(&media));
    assert!(
        media
            .iter()
            .all(|packet| packet.payload.len() == RTP_HEADER + PAYLOAD + TAG)
    );
    for tone in [CALLER_TONE, CALLEE_TONE] {
        let audible = loudest(&media, tone);
        assert!(audible < 0.2, "{tone} Hz can be heard on the wire: {audible}");
    }
    caller.stop().await.unwrap();
    callee.stop().await.unwrap();
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_route_bridges_a_secure_phone_to_a_plain_one() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "secure", trunk("Secure", TransportProtocol::Tls, TLS_PORT))
        .await
        .unwrap();
    create_trunk(&api, "plain", trunk("Plain", TransportProtocol::Udp, UDP_PORT))
        .await
        .unwrap();
    let users = users(1, 2);
    create_users(&api, "trunks/secure", &users[..1]).await.unwrap();
    create_users(&api, "trunks/plain", &users[1..]).await.unwrap();
    let (prefix, strip) = ("9", 1);
    let route = Route {
        r#match: Some(RouteMatch {
            inbound_trunk: "trunks/secure".to_owned(),
            user: Some(UserMatch::UserPrefix(prefix.to_owned())),
            ..Default::default()
        }),
        targets: vec![RouteTarget {
            target: Some(Target::Phones("trunks/plain".to_owned())),
            strip,
            ..Default::default()
        }],
        ..Default::default()
    };
    create_route(&api, "to-plain", route).await.unwrap();
    cluster.synced(0).await.unwrap();

    let worker = cluster.sip(0);
    let mut capture = Capture::start(cluster.dir(), worker).await.unwrap();
    let ca = cluster.control_dir().join("ca.pem");
    let registrar = SocketAddr::new(worker, TLS_PORT);
    let setup = Setup {
        user: &users[0],
        registrar,
        secure: Some(&ca),
        port: 21_000,
        tone: CALLER_TONE,
    };
    let mut caller = Baresip::start(cluster.dir(), &setup).await.unwrap();
    let plain = SocketAddr::new(worker, UDP_PORT);
    let setup = Setup {
        user: &users[1],
        registrar: plain,
        secure: None,
        port: 22_000,
        tone: CALLEE_TONE,
    };
    let mut callee = Baresip::start(cluster.dir(), &setup).await.unwrap();

    converse(
        &mut caller,
        &mut callee,
        &format!("sip:{prefix}{}@{registrar};transport=tls", users[1].name),
    )
    .await;
    capture.stop().await.unwrap();

    let call = only_call(&api).await;
    assert_eq!(
        (call.inbound_trunk.as_str(), call.outbound_trunk.as_str()),
        ("trunks/secure", "trunks/plain")
    );
    assert_eq!(call.route, "routes/to-plain");
    let suite = |caller: bool| {
        call.media
            .iter()
            .find(|leg| leg.caller == caller)
            .unwrap()
            .srtp_suite
            .as_str()
    };
    assert_eq!((suite(true), suite(false)), ("AES_CM_128_HMAC_SHA1_80", ""));
    call.media.iter().for_each(assert_talked);

    // The same tone is in the clear on one side of the edge and cannot be told from noise on the other.
    let toward = |port: u16| {
        media(
            &capture,
            &format!(
                "udp && ip.src == {worker} && udp.dstport >= {} && udp.dstport < {}",
                port + 100,
                port + 200
            ),
        )
    };
    let (secure, clear) = (toward(21_000), toward(22_000));
    assert!(secure.iter().chain(&clear).all(|packet| packet.dscp == 46));
    assert!(loudest(&clear, CALLER_TONE) > 0.9, "{}", loudest(&clear, CALLER_TONE));
    assert!(loudest(&secure, CALLEE_TONE) < 0.2, "{}", loudest(&secure, CALLEE_TONE));
    let signalling = capture.read(&format!("sip && ip.src == {worker}")).unwrap();
    assert!(
        !signalling.is_empty() && signalling.iter().all(|packet| packet.dscp == 24),
        "{:?}",
        dscps(&signalling)
    );
    let sdp = capture.readable_sdp().unwrap();
    assert!(
        !sdp.is_empty() && sdp.iter().all(|line| line.contains("RTP/AVP")),
        "{sdp:?}"
    );
    caller.stop().await.unwrap();
    callee.stop().await.unwrap();
    cluster.finish().await.unwrap();
}

/// One calls, they talk, the caller hangs up; each has heard the other and not itself.
async fn converse(caller: &mut Baresip, callee: &mut Baresip, uri: &str) {
    caller.call(uri).await.unwrap();
    callee.wait_for("CALL_ESTABLISHED").await.unwrap();
    talk(TALK).await;
    caller.hang_up().await.unwrap();
    callee.wait_for("CALL_CLOSED").await.unwrap();
    for (who, heard, others, own) in [
        ("caller", caller.heard().await.unwrap(), CALLEE_TONE, CALLER_TONE),
        ("callee", callee.heard().await.unwrap(), CALLER_TONE, CALLEE_TONE),
    ] {
        let (right, wrong) = (heard.seconds_of(others), heard.seconds_of(own));
        println!(
            "{who} heard {others} Hz for {right} s and {own} Hz for {wrong} s, of {} s",
            length(&heard)
        );
        assert!(right >= HEARD, "{who}: {right} s");
        assert_eq!(wrong, 0.0, "{who} heard itself");
    }
}

fn length(recording: &Recording) -> f64 {
    recording.samples.len() as f64 / f64::from(recording.rate)
}

async fn only_call(api: &Api) -> Call {
    eventually("the record of the call", BOUND, async || {
        let calls = api.list_calls(CallActivity::Ended).await?;
        let mut answered: Vec<_> = calls.into_iter().filter(|call| call.answer_time.is_some()).collect();
        ensure!(answered.len() == 1, "{answered:?}");
        Ok(answered.remove(0))
    })
    .await
    .unwrap()
}

/// Nothing was lost between two processes of one machine. baresip greets its peer with one RTCP packet in the clear; a
/// secure leg refuses it, if it comes after the keys.
fn assert_talked(leg: &MediaLeg) {
    assert!(leg.packets_received > 150 && leg.packets_sent > 150, "{leg:?}");
    assert_eq!(leg.packets_lost, 0, "{leg:?}");
    assert!(leg.packets_rejected <= u64::from(!leg.srtp_suite.is_empty()), "{leg:?}");
}

/// The RTP packets that a filter selects: version 2, payload type of PCMA.
fn media(capture: &Capture, filter: &str) -> Vec<Packet> {
    let packets = capture.read(filter).unwrap();
    packets
        .into_iter()
        .filter(|packet| matches!(packet.payload[..], [0x80, kind, ..] if kind & 0x7f == 8))
        .collect()
}

/// Largest share a tone has of what one stream says, taken as A-law, over a tenth of a second.
fn loudest(media: &[Packet], tone: f64) -> f64 {
    let mut streams: Vec<(SocketAddr, SocketAddr)> = media.iter().map(|packet| (packet.from, packet.to)).collect();
    streams.sort();
    streams.dedup();
    let mut loudest: f64 = 0.0;
    for stream in streams {
        let packets = media.iter().filter(|packet| (packet.from, packet.to) == stream);
        let octets: Vec<u8> = packets
            .flat_map(|packet| packet.payload[RTP_HEADER..RTP_HEADER + PAYLOAD].to_vec())
            .collect();
        let shares = decode_pcma(&octets)
            .chunks_exact(800)
            .map(|window| share(window, RATE, tone))
            .fold(0.0, f64::max);
        loudest = loudest.max(shares);
    }
    loudest
}

fn dscps(packets: &[Packet]) -> Vec<u8> {
    let mut values: Vec<_> = packets.iter().map(|packet| packet.dscp).collect();
    values.sort_unstable();
    values.dedup();
    values
}
