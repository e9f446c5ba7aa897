//! The generator measures itself: on a way without a relay every packet arrives once, and what is wrong is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::SocketAddrV4;
use std::time::Duration;

use trunkline_bench::rtp::generator::{Generator, Outcome, Schedule, media_port};
use trunkline_bench::rtp::network::{CALLEE_MEDIA, CALLER_MEDIA, DIRECT_LINKS, Network, Place};
use trunkline_bench::rtp::stream::EndConfig;
use trunkline_media::SrtpSuite;
use trunkline_media::srtp::SrtpKey;

const CALLS: usize = 20;
/// Packets of an end in the window: 20 ms each.
const PACKETS: u64 = 30;

fn calls() -> Vec<[EndConfig; 2]> {
    let key = || SrtpKey::generate(SrtpSuite::AesCm128HmacSha1_80, &mut rand::rng());
    let call = |call| {
        let [caller, callee] = [CALLER_MEDIA, CALLEE_MEDIA].map(|ip| SocketAddrV4::new(ip, media_port(call).unwrap()));
        let (one, other) = (key(), key());
        let end = |own, to, sends: &SrtpKey, hears: &SrtpKey| EndConfig {
            own,
            to,
            sends: Some(sends.clone()),
            hears: Some(hears.clone()),
        };
        [end(caller, callee, &one, &other), end(callee, caller, &other, &one)]
    };
    (0..CALLS).map(call).collect()
}

fn run(calls: &[[EndConfig; 2]]) -> Outcome {
    let network = Network::create().unwrap();
    network.enter(Place::Phones).unwrap();
    let schedule = Schedule {
        warm_up: Duration::from_millis(100),
        window: Duration::from_millis(20 * PACKETS),
        slot: Duration::from_millis(1),
    };
    let mut marks = 0;
    let outcome = Generator::new(DIRECT_LINKS, calls)
        .unwrap()
        .run(&schedule, |_| {
            marks += 1;
            Ok(())
        })
        .unwrap();
    network.leave().unwrap();
    assert_eq!(marks, 2);
    outcome
}

#[test]
fn every_packet_arrives_once_and_is_what_was_sent() {
    let outcome = run(&calls());
    let sent = 2 * CALLS as u64 * PACKETS;
    assert_eq!(
        (outcome.sent, outcome.received, outcome.lost),
        (sent, sent, 0),
        "{outcome:?}"
    );
    assert_eq!(outcome.latency.count(), sent);
    assert_eq!((outcome.stale, outcome.strangers, outcome.wrong), (0, 0, 0));
    assert!(outcome.cpu > 0 && outcome.latency.quantile_us(0.5) > 0.0);
}

#[test]
fn packets_that_go_nowhere_are_lost_and_those_under_another_key_are_wrong() {
    let mut calls = calls();
    // An RTCP port: nobody takes media there.
    let nowhere = SocketAddrV4::new(CALLEE_MEDIA, media_port(3).unwrap() + 1);
    calls[3][0].to = nowhere;
    calls[4][1].hears = calls[5][1].hears.clone();
    let outcome = run(&calls);
    assert!(outcome.wrong > 0, "{outcome:?}");
    assert_eq!(outcome.lost + outcome.received, outcome.sent);
    // A sampled packet that is wrong has not arrived either; of the other end nothing has.
    assert!((PACKETS..=PACKETS + 2).contains(&outcome.lost), "{outcome:?}");
}
