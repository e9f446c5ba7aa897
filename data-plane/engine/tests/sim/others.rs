//! Requests that are no calls.

use trunkline_engine::metrics::Counter;
use trunkline_sip::header::{HeaderName, MAGIC_COOKIE};
use trunkline_sip::method::Method;

use crate::world::World;

#[test]
fn options_to_the_edge_are_answered_with_what_it_can_do() {
    let (mut world, alice, _) = World::pair();
    world.act(alice, |phone, now| {
        phone.send(now, Method::Options, "sip:192.0.2.1:8060", "<sip:192.0.2.1>", &[], None)
    });
    world.run_seconds(1);
    let answer = world.phones[alice].last(&Method::Options).expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.has_token(HeaderName::Allow, "INVITE") && answer.contains(HeaderName::Accept));
    world.finish();
}

#[test]
fn other_methods_to_the_edge_itself_are_refused() {
    let (mut world, alice, _) = World::pair();
    for (method, status) in [(Method::Message, 405), (Method::parse(b"FOO").expect("a token"), 501)] {
        world.act(alice, |phone, now| {
            phone.send(now, method.clone(), "sip:192.0.2.1:8060", "<sip:192.0.2.1>", &[], None)
        });
        world.run_seconds(1);
        assert_eq!(world.phones[alice].statuses(&method), [status]);
    }
    world.finish();
}

#[test]
fn a_message_reaches_the_phone_it_is_for() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| {
        phone.send(
            now,
            Method::Message,
            "sip:bob@192.0.2.1:8060",
            "<sip:bob@192.0.2.1>",
            &[],
            Some(("text/plain", "hello".into())),
        );
    });
    world.run_seconds(1);
    assert_eq!(world.phones[bob].request(&Method::Message).body(), b"hello");
    assert_eq!(world.phones[alice].statuses(&Method::Message), [200]);
    world.finish();
}

#[test]
fn a_subscription_lives_on_the_flows_in_its_record_route() {
    let (mut world, alice, bob) = World::pair();
    let event = [("Event", "dialog".to_owned()), ("Expires", "60".to_owned())];
    world.act(alice, |phone, now| {
        phone.send(
            now,
            Method::Subscribe,
            "sip:bob@192.0.2.1:8060",
            "<sip:bob@192.0.2.1>",
            &event,
            None,
        )
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Subscribe), [202]);
    let subscribe = world.phones[bob].request(&Method::Subscribe).clone();
    let routes: Vec<String> = subscribe
        .values(HeaderName::RecordRoute)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect();
    assert_eq!(routes.len(), 2);
    // Bob notifies along the route set.
    let extra: Vec<(&str, String)> = routes.iter().map(|route| ("Route", route.clone())).collect();
    let dialog = world.phones[bob].dialog_of_uas(&subscribe, "bobs");
    world.act(bob, |phone, now| {
        phone.send_as(
            now,
            &Method::Notify,
            &dialog.target,
            &dialog.call_id,
            1,
            &dialog.local,
            &dialog.remote,
            &extra,
            None,
        );
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Notify), 1);
    assert_eq!(world.phones[bob].statuses(&Method::Notify), [200]);
    world.finish();
}

#[test]
fn nonsense_is_answered_or_dropped_and_never_kept() {
    let (mut world, alice, _) = World::pair();
    let mut flow = world.flow(alice);
    flow.remote = "198.51.100.99:5060".parse().expect("an address");
    let cookie = MAGIC_COOKIE;
    for text in [
        "garbage\r\n\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
        format!("INVITE sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10;branch={cookie}1\r\n\r\n"),
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:8060;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
         Call-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        format!(
            "ACK sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10;branch={cookie}2\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"
        ),
    ] {
        let now = world.clock();
        world.engine.handle_message(now, &world.env, flow.clone(), text.into());
        world.collect();
    }
    world.run_seconds(1);
    assert!(world.env.counted(Counter::MessagesDropped) > 0 && world.env.counted(Counter::MessagesMalformed) > 0);
    assert_eq!(world.env.counted(Counter::StrayResponses), 1);
    world.finish();
}
