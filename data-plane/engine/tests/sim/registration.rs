//! The registrar and digest authentication.

use std::time::Duration;

use trunkline_engine::io::{Env as _, Report};
use trunkline_shared::binding::Aor;
use trunkline_shared::name::TrunkId;
use trunkline_shared::reject::Reject;
use trunkline_sip::digest::Algorithm;
use trunkline_sip::header::HeaderName;
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::{MAIN, World};

fn bindings(world: &World, user: &str) -> Vec<String> {
    let aor = Aor {
        trunk: TrunkId::new("main").expect("an id"),
        user: user.into(),
    };
    let now = world.clock().wall;
    let contacts = world.env.contacts(&aor);
    contacts
        .iter()
        .filter(|contact| contact.binding.is_live(now))
        .map(|contact| contact.binding.contact_uri.to_string())
        .collect()
}

fn with_digest(world: &mut World) {
    world.trunk("main", |trunk| {
        trunk.inbound_digest.enabled = true;
        trunk.inbound_digest.realm = "example.com".into();
    });
    for user in ["alice", "bob"] {
        world.credential("main", user, "secret", "example.com");
    }
}

#[test]
fn a_phone_registers_refreshes_and_unregisters() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    assert_eq!(bindings(&world, "alice"), ["sip:alice@198.51.100.10:5060"]);
    let contact = world.phones[alice]
        .last(&Method::Register)
        .and_then(|response| response.line_text(HeaderName::Contact))
        .map(str::to_owned);
    assert_eq!(contact.as_deref(), Some("<sip:alice@198.51.100.10:5060>;expires=3600"));
    world.act(alice, |phone, now| phone.register(now, 120));
    world.run_seconds(1);
    assert_eq!(bindings(&world, "alice").len(), 1, "a refresh is no second binding");
    world.act(alice, |phone, now| phone.register(now, 0));
    world.run_seconds(1);
    assert!(bindings(&world, "alice").is_empty());
    let reported: Vec<usize> = world
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::Registration(state) => Some(state.bindings.len()),
            _ => None,
        })
        .collect();
    assert_eq!(reported, [1, 1, 0]);
    world.finish();
}

#[test]
fn a_binding_expires_by_itself() {
    let (mut world, alice, bob) = World::pair();
    world.act(bob, |phone, now| phone.register(now, 60));
    world.run_seconds(61);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [480]);
    assert_eq!(world.phones[bob].got(&Method::Invite), 0);
    world.finish();
}

#[test]
fn a_registration_too_short_is_told_the_minimum() {
    let mut world = World::new();
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    world.act(alice, |phone, now| phone.register(now, 10));
    world.run_seconds(1);
    let refused = world.phones[alice].last(&Method::Register).expect("an answer");
    assert_eq!(
        (refused.status().as_u16(), refused.line_text(HeaderName::MinExpires)),
        (423, Some("60"))
    );
    world.finish();
}

#[test]
fn a_registration_too_long_is_cut() {
    let mut world = World::new();
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    world.act(alice, |phone, now| phone.register(now, 100_000));
    world.run_seconds(1);
    let granted = world.phones[alice]
        .last(&Method::Register)
        .and_then(|r| r.line_text(HeaderName::Contact))
        .map(str::to_owned);
    assert!(granted.is_some_and(|contact| contact.ends_with("expires=3600")));
    world.finish();
}

#[test]
fn all_bindings_go_with_a_star_and_only_at_expiry_zero() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    world.act(alice, |phone, now| {
        phone.register_contact(now, "*", &[("Expires", "60".into())])
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Register).last(), Some(&400));
    world.act(alice, |phone, now| {
        phone.register_contact(now, "*", &[("Expires", "0".into())])
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Register).last(), Some(&200));
    assert!(bindings(&world, "alice").is_empty());
    world.finish();
}

#[test]
fn more_bindings_than_granted_are_refused_and_the_others_stay() {
    let mut world = World::new();
    world.trunk("main", |trunk| trunk.registrar.max_bindings = 2);
    for host in 10..12 {
        world.registered("alice", &format!("198.51.100.{host}:5060"), MAIN);
    }
    let third = world.phone("alice", "198.51.100.12:5060", MAIN);
    world.act(third, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    assert_eq!(world.phones[third].statuses(&Method::Register), [403]);
    assert_eq!(bindings(&world, "alice").len(), 2);
    world.finish();
}

#[test]
fn an_older_request_changes_nothing() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let again = world.phones[alice].contact();
    // The same Call-ID with the same CSeq in a new transaction.
    let flow = world.flow(alice);
    let text = format!(
        "REGISTER sip:192.0.2.1:8060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bKold\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@192.0.2.1>;tag=z\r\nTo: <sip:alice@192.0.2.1>\r\nCall-ID: reg-alice-100\r\nCSeq: 1 REGISTER\r\n\
         Contact: <{again}>;expires=0\r\nContent-Length: 0\r\n\r\n"
    );
    let now = world.clock();
    world.engine.handle_message(now, &world.env, flow, text.into());
    world.run_seconds(1);
    assert_eq!(bindings(&world, "alice").len(), 1);
    world.finish();
}

#[test]
fn a_path_is_kept_and_becomes_the_route() {
    let (mut world, alice, _) = World::pair();
    let proxy = world.phone("carol", "198.51.100.50:5060", MAIN);
    world.act(proxy, |phone, now| {
        phone.register_contact(
            now,
            "<sip:carol@10.0.0.5>",
            &[("Path", "<sip:198.51.100.50;lr>".into()), ("Require", "path".into())],
        );
    });
    world.run_seconds(1);
    let answer = world.phones[proxy].last(&Method::Register).expect("an answer");
    assert_eq!(answer.line_text(HeaderName::Path), Some("<sip:198.51.100.50;lr>"));
    world.phones[proxy].auto = Auto::Refuse(486, None);
    world.act(alice, |phone, now| phone.invite(now, "carol", &[]));
    world.run_seconds(1);
    let invite = world.phones[proxy].request(&Method::Invite);
    assert_eq!(invite.uri_text(), "sip:carol@10.0.0.5");
    assert_eq!(invite.line_text(HeaderName::Route), Some("<sip:198.51.100.50;lr>"));
    world.finish();
}

#[test]
fn digest_lets_the_right_password_in_by_every_algorithm() {
    for algorithm in [None, Some(Algorithm::Sha256), Some(Algorithm::Md5)] {
        let mut world = World::new();
        with_digest(&mut world);
        let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
        world.phones[alice].password = Some("secret".into());
        world.phones[alice].algorithm = algorithm;
        world.act(alice, |phone, now| phone.register(now, 60));
        world.run_seconds(1);
        assert_eq!(
            world.phones[alice].statuses(&Method::Register),
            [401, 200],
            "{algorithm:?}"
        );
        let challenge = &world.phones[alice].responses[0];
        let offered: Vec<String> = challenge
            .lines(HeaderName::WwwAuthenticate)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        assert!(offered[0].contains("SHA-256") && offered[1].contains("MD5") && offered.len() == 2);
        world.finish();
    }
}

#[test]
fn a_call_is_challenged_as_by_a_proxy_and_its_credentials_go_no_further() {
    let mut world = World::new();
    with_digest(&mut world);
    let (alice, bob) = (
        world.phone("alice", "198.51.100.10:5060", MAIN),
        world.phone("bob", "198.51.100.20:5060", MAIN),
    );
    for phone in [alice, bob] {
        world.phones[phone].password = Some("secret".into());
        world.act(phone, |phone, now| phone.register(now, 600));
    }
    world.run_seconds(1);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [407, 180, 200]);
    assert!(
        !world.phones[bob]
            .request(&Method::Invite)
            .contains(HeaderName::ProxyAuthorization)
    );
    assert_eq!(&*world.record().authenticated_user, "alice");
    assert_eq!(world.records().len(), 1, "a challenge is no call");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_wrong_password_is_refused_for_good_after_three_times() {
    let mut world = World::new();
    with_digest(&mut world);
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    world.phones[alice].password = Some("wrong".into());
    for _ in 0..4 {
        world.act(alice, |phone, now| phone.register(now, 60));
        world.run_seconds(1);
    }
    assert_eq!(
        world.phones[alice].statuses(&Method::Register),
        [401, 401, 401, 401, 401, 401, 403]
    );
    assert!(world.reports.iter().any(|report| matches!(
        report,
        Report::AuthenticationFailure {
            reason: "bad_credentials",
            ..
        }
    )));
    assert!(bindings(&world, "alice").is_empty());
    world.finish();
}

#[test]
fn a_user_registers_its_own_name_only() {
    let mut world = World::new();
    with_digest(&mut world);
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    world.phones[alice].password = Some("secret".into());
    // Alice's credentials, Bob's address of record.
    let mut mallory = world.phones[alice].contact();
    mallory.insert(0, '<');
    mallory.push('>');
    world.credential("main", "mallory", "secret", "example.com");
    let thief = world.phone("mallory", "198.51.100.66:5060", MAIN);
    world.phones[thief].password = Some("secret".into());
    world.act(thief, |phone, now| {
        phone.send(
            now,
            Method::Register,
            "sip:192.0.2.1:8060",
            "<sip:bob@192.0.2.1>",
            &[],
            None,
        );
    });
    world.run_seconds(1);
    assert_eq!(world.phones[thief].statuses(&Method::Register), [401, 403]);
    assert_eq!(world.env.rejected(Reject::ForeignAor), 1);
    assert!(bindings(&world, "bob").is_empty());
    world.finish();
}

#[test]
fn the_answer_to_a_challenge_is_not_counted_twice() {
    let mut world = World::new();
    with_digest(&mut world);
    world.trunk("main", |trunk| {
        trunk.max_registration_rate = "1/1m".parse().expect("a rate")
    });
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    world.phones[alice].password = Some("secret".into());
    world.act(alice, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Register), [401, 200]);
    world.finish();
}

#[test]
fn a_phone_behind_a_nat_is_reached_over_its_flow() {
    let mut world = World::new();
    world.trunk("main", |trunk| trunk.fent = true);
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let bob = world.phone("bob", "198.51.100.20:40000", MAIN);
    world.act(bob, |phone, now| {
        phone.register_contact(now, "<sip:bob@10.0.0.7:5060>", &[])
    });
    world.run(Duration::from_secs(1));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let invite = world.phones[bob].request(&Method::Invite);
    assert_eq!(invite.uri_text(), "sip:bob@10.0.0.7:5060");
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].got(&Method::Bye), 1);
    world.finish();
}

#[test]
fn a_user_is_known_by_the_address_its_credential_is_bound_to() {
    let (mut world, alice, _) = World::pair();
    let name = "trunks/main/credentials/c1".parse().expect("a name");
    world.trunk("main", |trunk| {
        trunk.inbound_digest.enabled = true;
        trunk.inbound_digest.realm = "example.com".into();
        trunk.inbound_digest.methods = trunkline_shared::method::MethodSet::new(&[]);
    });
    world.credential("main", "login", "secret", "example.com");
    let held = world
        .snapshot
        .credential(&TrunkId::new("main").expect("an id"), "login")
        .expect("the credential");
    let mut bound = (**held).clone();
    bound.name = name;
    bound.username = "desk-7".into();
    bound.aor_user = "1001".into();
    world.put(trunkline_shared::snapshot::Body::Credential(std::sync::Arc::new(bound)));
    for (user, status) in [("1001", 480), ("desk-7", 404), ("1002", 404)] {
        world.act(alice, |phone, now| phone.invite(now, user, &[]));
        world.run_seconds(1);
        assert_eq!(
            world.phones[alice].statuses(&Method::Invite).last(),
            Some(&status),
            "{user}"
        );
    }
    world.finish();
}

#[test]
fn a_phone_that_comes_back_takes_the_place_of_its_oldest_binding() {
    let mut world = World::new();
    world.trunk("main", |trunk| trunk.registrar.max_bindings = 2);
    let alice = world.phone("alice", "198.51.100.10:5060", MAIN);
    let contact =
        |port: u16, instance: &str| format!("<sip:alice@198.51.100.10:{port}>;+sip.instance=\"<urn:uuid:{instance}>\"");
    for (port, instance) in [(1001, "a"), (1002, "a"), (1003, "a"), (1004, "b")] {
        world.act(alice, |phone, now| {
            phone.register_contact(now, &contact(port, instance), &[])
        });
        world.run_seconds(1);
    }
    assert_eq!(
        world.phones[alice].statuses(&Method::Register),
        [200, 200, 200, 403],
        "another phone does not push it out"
    );
    assert_eq!(
        bindings(&world, "alice"),
        ["sip:alice@198.51.100.10:1003", "sip:alice@198.51.100.10:1002"]
    );
    world.finish();
}
