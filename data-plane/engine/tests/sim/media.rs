//! Offers and answers on their way through a call.

use trunkline_media::relay::{LegId, MediaPath};
use trunkline_shared::call::{EndReason, MediaPath as RecordedPath};
use trunkline_shared::codec::Codec;
use trunkline_shared::reject::Reject;
use trunkline_sip::header::HeaderName;
use trunkline_sip::method::Method;

use crate::failover::{phones, route};
use crate::phone::Auto;
use crate::world::{MAIN, SECURE, World};

fn body(message: &trunkline_sip::message::Fields) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

#[test]
fn neither_side_sees_the_address_of_the_other() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let offer = body(world.phones[bob].request(&Method::Invite));
    assert!(
        !offer.contains("198.51.100.10") && offer.contains("192.0.2.1"),
        "{offer}"
    );
    let answer = body(world.phones[alice].last(&Method::Invite).expect("an answer"));
    assert!(
        !answer.contains("198.51.100.20") && answer.contains("192.0.2.1"),
        "{answer}"
    );
    assert_eq!(world.record().media.len(), 2);
    assert_eq!(world.record().media[0].path, RecordedPath::Forward);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_tls_trunk_and_a_udp_trunk_are_bridged_with_srtp_on_one_side() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:40000", SECURE);
    let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
    world.route(route("r1", "secure", "bob", vec![phones("main")]));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    let offer = body(world.phones[bob].request(&Method::Invite));
    assert!(offer.contains("RTP/AVP ") && !offer.contains("a=crypto"), "{offer}");
    let answer = body(world.phones[alice].last(&Method::Invite).expect("an answer"));
    assert!(
        answer.contains("RTP/SAVP ") && answer.contains("a=crypto:1 AES_CM_128_HMAC_SHA1_80"),
        "{answer}"
    );
    assert_eq!(
        world.relays.values().next().map(|config| config.path()),
        Some(MediaPath::Recrypt)
    );
    assert!(world.record().media[0].srtp_suite.is_some() && world.record().media[1].srtp_suite.is_none());
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    world.finish();
}

#[test]
fn plain_rtp_on_a_trunk_that_requires_srtp_is_refused_with_488() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:40000", SECURE);
    let _bob = world.registered("bob", "198.51.100.20:40000", SECURE);
    world.phones[alice].srtp = false;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let refused = world.phones[alice].last(&Method::Invite).expect("an answer");
    assert_eq!(refused.status().as_u16(), 488);
    assert!(
        refused
            .line_text(HeaderName::Warning)
            .is_some_and(|warning| warning.starts_with("304 "))
    );
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::SrtpRequired));
    world.finish();
}

#[test]
fn without_a_common_codec_the_call_is_refused_with_488() {
    let (mut world, alice, _) = World::pair();
    world.trunk("main", |trunk| trunk.codecs = vec![Codec::G729]);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let refused = world.phones[alice].last(&Method::Invite).expect("an answer");
    assert_eq!(refused.status().as_u16(), 488);
    assert!(
        refused
            .line_text(HeaderName::Warning)
            .is_some_and(|warning| warning.starts_with("305 "))
    );
    let by = world.end().decided_by.clone().expect("the setting");
    assert_eq!((&*by.setting, &*by.value), ("codecs", "G729"));
    world.finish();
}

#[test]
fn a_delayed_offer_is_answered_in_the_ack() {
    let (mut world, alice, bob) = World::pair();
    world.phones[alice].delayed_offer = true;
    world.phones[bob].auto = Auto::Offer;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert!(world.phones[bob].request(&Method::Invite).body().is_empty());
    let offer = body(world.phones[alice].last(&Method::Invite).expect("an offer"));
    assert!(
        offer.contains("192.0.2.1") && !offer.contains("198.51.100.20"),
        "{offer}"
    );
    let answer = body(world.phones[bob].request(&Method::Ack));
    assert!(
        answer.contains("192.0.2.1") && !answer.contains("198.51.100.10"),
        "{answer}"
    );
    let config = world.relays.values().next().expect("a relay session");
    assert!(
        LegId::BOTH
            .iter()
            .all(|leg| config.streams[0].legs[*leg].remote.is_some())
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_body_that_is_no_sdp_is_refused() {
    let (mut world, alice, _) = World::pair();
    world.act(alice, |phone, now| {
        let uri = "sip:bob@192.0.2.1:8060";
        phone.send(
            now,
            Method::Invite,
            uri,
            "<sip:bob@192.0.2.1>",
            &[],
            Some(("application/sdp", "nonsense\r\n".into())),
        );
    });
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [400]);
    world.finish();
}
