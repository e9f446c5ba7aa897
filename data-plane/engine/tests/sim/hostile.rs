//! Peers that want more than is theirs.

use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_shared::acl::{AccessList, Entry};
use trunkline_shared::call::EndReason;
use trunkline_shared::property::{CustomProperties, CustomProperty, PropertyValue};
use trunkline_shared::reject::Reject;
use trunkline_sip::digest::ClientDigest;
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Fields;
use trunkline_sip::method::Method;

use crate::phone::{Auto, Dialog};
use crate::world::{MAIN, OTHER, World};

fn in_call() -> (World, usize, usize) {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    (world, alice, bob)
}

/// A request of another phone on somebody's dialog.
fn forge(world: &mut World, phone: usize, method: &Method, dialog: &Dialog, uri: &str, body: Option<(&str, String)>) {
    let routes: Vec<(&str, String)> = dialog.routes.iter().map(|route| ("Route", route.clone())).collect();
    world.act(phone, |phone, now| {
        phone.send_as(
            now,
            method,
            uri,
            &dialog.call_id,
            dialog.local_cseq + 50,
            &dialog.local,
            &dialog.remote,
            &routes,
            body,
        );
    });
    world.run_seconds(1);
}

fn routes_of(request: &Fields) -> Vec<String> {
    request
        .values(HeaderName::RecordRoute)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

fn requests_to(world: &World, address: &str) -> usize {
    let address = address.parse().expect("an address");
    world.sent.iter().filter(|(to, _)| *to == address).count()
}

#[test]
fn the_tags_of_a_call_make_no_party_to_it_of_another_trunk() {
    let (mut world, alice, bob) = in_call();
    let mallory = world.phone("mallory", "203.0.113.66:5060", OTHER);
    let dialog = world.phones[alice].dialogs[0].clone();
    forge(&mut world, mallory, &Method::Bye, &dialog, &dialog.target, None);
    assert_eq!(world.phones[mallory].statuses(&Method::Bye), [481]);
    assert_eq!(world.phones[bob].got(&Method::Bye), 0);
    assert!(world.record().end().is_none());
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_reinvite_from_elsewhere_has_to_authenticate() {
    let mut world = World::new();
    world.trunk("main", |trunk| {
        trunk.inbound_digest.enabled = true;
        trunk.inbound_digest.realm = "example.com".into();
    });
    for user in ["alice", "bob"] {
        world.credential("main", user, "secret", "example.com");
    }
    let phones = [("alice", "198.51.100.10:5060"), ("bob", "198.51.100.20:5060")].map(|(user, address)| {
        let phone = world.phone(user, address, MAIN);
        world.phones[phone].password = Some("secret".into());
        world.act(phone, |phone, now| phone.register(now, 3600));
        phone
    });
    world.run_seconds(1);
    let [alice, bob] = phones;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [407, 180, 200]);
    let mallory = world.phone("mallory", "198.51.100.66:5060", MAIN);
    let dialog = world.phones[alice].dialogs[0].clone();
    let sdp = world.phones[mallory].sdp("sendrecv");
    let target = dialog.target.clone();
    forge(
        &mut world,
        mallory,
        &Method::Invite,
        &dialog,
        &target,
        Some(("application/sdp", sdp)),
    );
    assert_eq!(world.phones[mallory].statuses(&Method::Invite), [407]);
    assert_eq!(world.phones[bob].got(&Method::Invite), 1);
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_peer_of_a_call_cannot_have_requests_sent_elsewhere() {
    let (mut world, alice, bob) = in_call();
    let mut dialog = world.phones[alice].dialogs[0].clone();
    forge(
        &mut world,
        alice,
        &Method::Info,
        &dialog,
        "sip:victim@203.0.113.9:5060",
        None,
    );
    dialog.local_cseq += 1;
    dialog.routes.push("<sip:203.0.113.9;lr>".into());
    forge(&mut world, alice, &Method::Info, &dialog, "sip:bob@198.51.100.20", None);
    assert_eq!(requests_to(&world, "203.0.113.9:5060"), 0);
    assert_eq!(world.phones[bob].got(&Method::Info), 2);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn the_route_of_a_subscription_opens_nothing_else() {
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
    let subscribe = world.phones[bob].request(&Method::Subscribe).clone();
    let mut routes = routes_of(&subscribe);
    routes.reverse();
    let text = |name| subscribe.line_text(name).expect("a header").to_owned();
    let dialog = Dialog {
        call_id: subscribe.call_id().into(),
        local: text(HeaderName::From),
        remote: format!("{};tag=bobs", text(HeaderName::To)),
        local_cseq: 1,
        invite_cseq: 0,
        target: "sip:bob@198.51.100.20:5060".into(),
        routes,
        ended: false,
    };
    let target = dialog.target.clone();
    // The refresh of the subscription itself passes.
    forge(&mut world, alice, &Method::Subscribe, &dialog, &target, None);
    assert_eq!(world.phones[bob].got(&Method::Subscribe), 2);
    // It goes to Bob, whatever the Request-URI says.
    forge(
        &mut world,
        alice,
        &Method::Notify,
        &dialog,
        "sip:victim@203.0.113.9:5060",
        None,
    );
    assert_eq!(requests_to(&world, "203.0.113.9:5060"), 0);
    // A call is none of its business.
    forge(&mut world, alice, &Method::Invite, &dialog, &target, None);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [481]);
    // Nor is another dialog.
    let other = Dialog {
        call_id: "another@198.51.100.10".into(),
        ..dialog.clone()
    };
    forge(&mut world, alice, &Method::Message, &other, &target, None);
    assert_eq!(world.phones[alice].statuses(&Method::Message), [481]);
    // And whoever is not let in any more is not let in by it.
    let deny = vec![Entry::parse("198.51.100.10").expect("an entry")];
    world.trunk("main", |trunk| {
        trunk.acl = AccessList::new(true, true, Vec::new(), deny)
    });
    forge(&mut world, alice, &Method::Refer, &dialog, &target, None);
    assert_eq!(world.phones[alice].statuses(&Method::Refer), [403]);
    for method in [Method::Invite, Method::Message, Method::Refer] {
        assert_eq!(world.phones[bob].got(&method), 0, "{method}");
    }
    world.finish();
}

#[test]
fn the_phone_that_lost_the_call_to_another_one_cannot_end_it() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let desk = world.registered("bob", "198.51.100.20:5060", MAIN);
    let _mobile = world.registered("bob", "198.51.100.21:5060", MAIN);
    world.phones[desk].auto = Auto::Ring;
    world.phones[desk].ignores_cancel = true;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[desk].got(&Method::Cancel), 1);
    let (_, invite, tag) = world.phones[desk].ringing[0].clone();
    let dialog = world.phones[desk].dialog_of_uas(&invite, &tag);
    let target = dialog.target.clone();
    forge(&mut world, desk, &Method::Bye, &dialog, &target, None);
    assert!(world.record().end().is_none(), "the other phone is talking");
    // The late answer is acknowledged and ended.
    world.act(desk, |phone, now| phone.answer_now(now, 0));
    world.run_seconds(1);
    assert_eq!(world.phones[desk].got(&Method::Bye), 1);
    world.phones[alice].dialogs[0].ended = false;
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn media_cannot_go_around_the_relay_in_a_multipart_body() {
    let (mut world, alice, bob) = World::pair();
    let send = |world: &mut World, encoding: &str, sdp: &str| {
        let body = format!(
            "--b\r\nContent-Type: application/pidf+xml\r\n\r\n<presence/>\r\n--b\r\nContent-Type: application/sdp\r\n{encoding}\r\n\
             {sdp}\r\n--b--\r\n"
        );
        world.act(alice, |phone, now| {
            phone.send(
                now,
                Method::Invite,
                "sip:bob@192.0.2.1:8060",
                "<sip:bob@192.0.2.1>",
                &[],
                Some(("multipart/mixed;boundary=b", body)),
            );
        });
        world.run_seconds(2);
    };
    let sdp = world.phones[alice].sdp("sendrecv");
    send(&mut world, "", &sdp);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 200]);
    let invite = world.phones[bob].request(&Method::Invite).clone();
    let offer = String::from_utf8_lossy(invite.body()).into_owned();
    assert!(
        offer.contains("<presence/>") && offer.contains("c=IN IP4 192.0.2.1"),
        "{offer}"
    );
    assert!(!offer.contains("198.51.100.10"), "{offer}");
    assert_eq!(world.relays.len(), 1);
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    send(&mut world, "Content-Transfer-Encoding: base64\r\n", "dj0wDQo=");
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&415));
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::UnsupportedMediaType));
    world.finish();
}

#[test]
fn an_invite_no_dialog_can_be_made_of_is_refused() {
    let (mut world, alice, bob) = World::pair();
    for (serial, (from, contact)) in [
        ("<sip:alice@192.0.2.1>;tag=1", ""),
        ("<sip:alice@192.0.2.1>;tag=1", "Contact: *\r\n"),
        ("<sip:alice@192.0.2.1>;tag=1", "Contact: <<>>\r\n"),
        ("<sip:alice@192.0.2.1>", "Contact: <sip:alice@198.51.100.10>\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        world.sent.clear();
        let text = format!(
            "INVITE sip:bob@192.0.2.1:8060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKx{serial}\r\n\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: <sip:bob@192.0.2.1>\r\nCall-ID: x{serial}\r\nCSeq: 1 INVITE\r\n{contact}\
             Content-Length: 0\r\n\r\n"
        );
        world.inject(alice, text);
        let (_, answer) = world.sent.first().expect("an answer");
        assert!(answer.starts_with(b"SIP/2.0 400 "), "{from} {contact}: {answer:?}");
    }
    assert_eq!(world.phones[bob].got(&Method::Invite), 0);
    world.finish();
}

#[test]
fn those_not_let_in_leave_nothing_behind() {
    let (mut world, alice, _) = World::pair();
    world.run_seconds(60);
    world.trunk("main", |trunk| {
        trunk.acl = AccessList::new(true, false, Vec::new(), Vec::new())
    });
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.act(alice, |phone, now| phone.register(now, 60));
    world.run(std::time::Duration::from_millis(20));
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [403]);
    assert_eq!(world.phones[alice].statuses(&Method::Register).last(), Some(&403));
    let gauges = world.engine.gauges();
    assert_eq!((gauges.transactions, gauges.entries), (0, 0), "no timer runs for them");
    world.finish();
}

#[test]
fn a_user_with_control_characters_is_nobody() {
    let (mut world, alice, _) = World::pair();
    world.act(alice, |phone, now| {
        phone.send(
            now,
            Method::Message,
            "sip:bob%0d%0aX@192.0.2.1:8060",
            "<sip:bob@192.0.2.1>",
            &[],
            None,
        )
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Message), [404]);
    world.finish();
}

#[test]
fn a_registration_cannot_point_at_the_edge_or_bring_thousands_of_contacts() {
    let mut world = World::new();
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    let many: Vec<String> = (0..300).map(|serial| format!("<sip:a@h{serial}>")).collect();
    let long = format!("<sip:alice@198.51.100.10;x={}>", "y".repeat(2000));
    for (contact, status) in [
        ("<sip:bob@192.0.2.1:8060>".to_owned(), 400),
        (many.join(","), 403),
        (long, 400),
    ] {
        world.act(alice, |phone, now| phone.register_contact(now, &contact, &[]));
        world.run_seconds(1);
        assert_eq!(world.phones[alice].statuses(&Method::Register).last(), Some(&status));
    }
    world.finish();
}

#[test]
fn a_contact_that_names_the_edge_makes_no_loop() {
    let (mut world, alice, bob) = in_call();
    let extra = [("Contact", "<sip:alice@192.0.2.1:8060>".to_owned())];
    let mut dialog = world.phones[alice].dialogs[0].clone();
    let sdp = world.phones[alice].sdp("sendrecv");
    let routes: Vec<(&str, String)> = dialog.routes.iter().map(|route| ("Route", route.clone())).collect();
    dialog.local_cseq += 50;
    let text = format!(
        "INVITE {} SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKself\r\nMax-Forwards: 70\r\n{}From: {}\r\n\
         To: {}\r\nCall-ID: {}\r\nCSeq: {} INVITE\r\nContact: {}\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        dialog.target,
        routes
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect::<String>(),
        dialog.local,
        dialog.remote,
        dialog.call_id,
        dialog.local_cseq,
        extra[0].1,
        sdp.len(),
    );
    world.inject(alice, text);
    world.run_seconds(1);
    assert_eq!(world.phones[bob].got(&Method::Invite), 2);
    world.act(bob, |phone, now| phone.in_dialog(now, Method::Info, &[], None));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Info), [200]);
    assert_eq!(requests_to(&world, MAIN), 0);
    world.act(bob, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_silent_trunk_says_nothing_to_strays_either() {
    let (mut world, alice, _) = World::pair();
    world.trunk("main", |trunk| {
        trunk.acl = AccessList::new(true, false, Vec::new(), Vec::new());
        let drop = CustomProperty::new("acl.deny_action", PropertyValue::Text("drop".into())).expect("a property");
        trunk.properties = CustomProperties::new(vec![drop]).expect("one property");
    });
    let head = "Via: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKstray\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\n\
                To: <sip:a@b>\r\nCall-ID: stray\r\n";
    world.sent.clear();
    for (line, rest) in [
        ("CANCEL sip:bob@192.0.2.1 SIP/2.0", "CSeq: 1 CANCEL\r\n"),
        ("OPTIONS sip:192.0.2.1 SIP/2.0", "CSeq: 1 OPTIONS\r\n"),
        ("BYE sip:bob@192.0.2.1 SIP/2.0", "CSeq: x BYE\r\n"),
        ("BYE sip:bob@192.0.2.1 SIP/3.0", "CSeq: 1 BYE\r\n"),
    ] {
        world.inject(alice, format!("{line}\r\n{head}{rest}Content-Length: 0\r\n\r\n"));
    }
    world.run_seconds(1);
    assert!(world.sent.is_empty(), "{:?}", world.sent);
    world.finish();
}

#[test]
fn one_call_id_is_good_for_a_few_calls_only() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Ring;
    let mut answers = Vec::new();
    for serial in 0..20 {
        world.sent.clear();
        let text = format!(
            "INVITE sip:bob@192.0.2.1:8060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKcopy{serial}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:alice@192.0.2.1>;tag={serial}\r\nTo: <sip:bob@192.0.2.1>\r\nCall-ID: copy\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:alice@198.51.100.10>\r\nContent-Length: 0\r\n\r\n"
        );
        world.inject(alice, text);
        answers.push(world.sent.iter().any(|(_, bytes)| bytes.starts_with(b"SIP/2.0 482 ")));
    }
    assert_eq!(answers.iter().filter(|refused| **refused).count(), 4);
    world.run_seconds(1);
    let ids: Vec<_> = world
        .records()
        .iter()
        .filter(|record| record.end().is_none())
        .map(|record| record.id)
        .collect();
    assert_eq!(ids.len(), 16);
    for id in ids {
        assert!(world.hang_up(id));
    }
    world.finish();
}

#[test]
fn a_phone_that_proves_who_it_is_cannot_assert_to_be_somebody_else() {
    for digest in [true, false] {
        let (mut world, alice, bob) = World::pair();
        let realm = "example.com";
        world.credential("main", "alice", "secret", realm);
        world.trunk("main", |trunk| {
            trunk.inbound_digest.enabled = digest;
            trunk.inbound_digest.realm = realm.into();
        });
        let mut credentials = String::new();
        if digest {
            world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
            world.run_seconds(1);
            let challenge = world.phones[alice].last(&Method::Invite).expect("a challenge").clone();
            let mut client = ClientDigest::from_challenge(&challenge).expect("readable");
            let mut rng = StdRng::seed_from_u64(5);
            (_, credentials) = client.authorize("alice", "secret", &Method::Invite, "sip:bob@192.0.2.1:8060", &mut rng);
        }
        let mut extra = vec![("P-Asserted-Identity", "<sip:boss@192.0.2.1>".to_owned())];
        if digest {
            extra.push(("Proxy-Authorization", credentials));
        }
        world.act(alice, |phone, now| phone.invite(now, "bob", &extra));
        world.run_seconds(2);
        assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
        let passed = world.phones[bob]
            .request(&Method::Invite)
            .contains("P-Asserted-Identity");
        assert_eq!(passed, !digest, "digest: {digest}");
        world.act(alice, |phone, now| phone.bye(now));
        world.finish();
    }
}

#[test]
fn nothing_is_sent_to_services_of_this_machine() {
    let (mut world, alice, bob) = World::pair();
    world.act(bob, |phone, now| {
        phone.register_contact(now, "<sip:bob@127.0.0.1:514>", &[])
    });
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(requests_to(&world, "127.0.0.1:514"), 0);
    assert!(world.phones[bob].got(&Method::Invite) > 0, "its flow is used");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}
