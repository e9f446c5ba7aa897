//! Refusals: who is not let in, and what it is told.

use trunkline_shared::acl::{AccessList, Entry};
use trunkline_shared::call::EndReason;
use trunkline_shared::property::{CustomProperties, CustomProperty, PropertyValue};
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::TrunkState;
use trunkline_sip::header::{HeaderName, RetryAfter};
use trunkline_sip::method::Method;

use crate::failover::{lines, route};
use crate::phone::Auto;
use crate::world::{MAIN, World};

fn deny_list(entry: &str) -> AccessList {
    AccessList::new(true, true, Vec::new(), vec![Entry::parse(entry).expect("an entry")])
}

#[test]
fn a_denied_source_gets_403_and_the_record_names_the_entry() {
    let (mut world, alice, _) = World::pair();
    world.trunk("main", |trunk| trunk.acl = deny_list("198.51.100.10"));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.act(alice, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [403]);
    assert_eq!(world.phones[alice].statuses(&Method::Register).last(), Some(&403));
    let end = world.end();
    assert_eq!(end.reason, EndReason::Rejected(Reject::AclDenied));
    let by = end.decided_by.clone().expect("the entry");
    assert_eq!(
        (by.trunk.as_str(), &*by.setting, &*by.value),
        ("main", "acl.deny[0]", "198.51.100.10")
    );
    world.finish();
}

#[test]
fn a_denied_source_may_be_met_with_silence() {
    let (mut world, alice, _) = World::pair();
    world.trunk("main", |trunk| {
        trunk.acl = deny_list("198.51.100.10");
        let drop = CustomProperty::new("acl.deny_action", PropertyValue::Text("drop".into())).expect("a property");
        trunk.properties = CustomProperties::new(vec![drop]).expect("one property");
    });
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(5);
    assert!(world.phones[alice].statuses(&Method::Invite).is_empty());
    assert!(world.records().is_empty());
    assert!(world.env.rejected(Reject::AclDenied) > 0);
    world.finish();
}

#[test]
fn the_via_decides_when_the_trunk_says_so() {
    let (mut world, alice, _) = World::pair();
    let allow = vec![Entry::parse("203.0.113.0/24").expect("an entry")];
    world.trunk("main", |trunk| {
        trunk.acl = AccessList::new(false, false, allow, Vec::new())
    });
    world.act(alice, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    assert_eq!(
        world.phones[alice].statuses(&Method::Register).last(),
        Some(&403),
        "its Via says 198.51.100.10"
    );
    world.finish();
}

#[test]
fn an_answered_call_is_not_touched_by_the_access_list() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.trunk("main", |trunk| {
        trunk.acl = AccessList::new(true, false, Vec::new(), Vec::new())
    });
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Bye), [200]);
    world.finish();
}

#[test]
fn a_trunk_out_of_service_answers_503_for_a_minute_and_lets_calls_end() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.trunk("main", |trunk| trunk.state = TrunkState::OutOfService);
    world.act(bob, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    let refused = world.phones[bob].last(&Method::Register).expect("an answer");
    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(
        refused
            .typed::<RetryAfter<'_>>()
            .expect("readable")
            .map(|after| after.seconds),
        Some(60)
    );
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Bye), [200]);
    world.finish();
}

#[test]
fn a_draining_worker_takes_no_new_work() {
    let (mut world, alice, _) = World::pair();
    world.engine.drain(true);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [503]);
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::Draining));
    world.finish();
}

#[test]
fn a_call_inside_a_trunk_takes_two_of_its_slots() {
    let (mut world, alice, _) = World::pair();
    world.trunk("main", |trunk| trunk.max_calls = Some(1));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [503]);
    assert_eq!(
        world.phones[alice]
            .last(&Method::Invite)
            .and_then(|response| response.q850_cause()),
        Some(34)
    );
    assert_eq!(world.end().decided_by.as_ref().map(|by| &*by.value), Some("1"));
    world.trunk("main", |trunk| trunk.max_calls = Some(2));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&503));
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn calls_over_the_rate_are_told_when_to_come_back() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Refuse(486, None);
    world.trunk("main", |trunk| trunk.max_call_rate = "2/1m".parse().expect("a rate"));
    for _ in 0..2 {
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(1);
    }
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [486, 503]);
    let refused = world.phones[alice].last(&Method::Invite).expect("an answer");
    assert_eq!(refused.q850_cause(), Some(42));
    let after = refused
        .typed::<RetryAfter<'_>>()
        .expect("readable")
        .expect("there")
        .seconds;
    assert!((29..=36).contains(&after), "{after}");
    world.finish();
}

#[test]
fn registrations_over_the_rate_are_refused() {
    let mut world = World::new();
    world.trunk("main", |trunk| {
        trunk.max_registration_rate = "1/1m".parse().expect("a rate")
    });
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    world.act(alice, |phone, now| phone.register(now, 60));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Register), [200, 503]);
    assert_eq!(world.env.rejected(Reject::RegistrationRate), 1);
    world.finish();
}

#[test]
fn without_a_free_port_the_call_is_refused() {
    let (mut world, alice, _) = World::pair();
    *world.env.max_leases.borrow_mut() = Some(1);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [503]);
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::PortsExhausted));
    world.finish();
}

#[test]
fn what_cannot_be_forwarded_says_why() {
    let (mut world, alice, _) = World::pair();
    for (extra, status) in [
        (("Proxy-Require", "foo"), 420),
        (("Route", "<sip:203.0.113.9;lr>"), 404),
    ] {
        world.act(alice, |phone, now| {
            phone.invite(now, "bob", &[(extra.0, extra.1.to_owned())])
        });
        world.run_seconds(1);
        assert_eq!(
            world.phones[alice].statuses(&Method::Invite).last(),
            Some(&status),
            "{extra:?}"
        );
    }
    assert_eq!(
        world.phones[alice]
            .responses
            .iter()
            .find_map(|response| response.line_text(HeaderName::Unsupported)),
        Some("foo")
    );
    world.act(alice, |phone, now| phone.invite(now, "nobody", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&480));
    world.act(alice, |phone, now| {
        phone.send(
            now,
            Method::Invite,
            "sip:bob@elsewhere.example",
            "<sip:bob@elsewhere.example>",
            &[],
            None,
        );
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&404));
    world.finish();
}

#[test]
fn a_request_that_comes_back_unchanged_is_a_loop() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    // A line that is the edge itself.
    world.line("main", "mirror", "192.0.2.1:8060", 1);
    world.route(route("loop", "main", "bob", vec![lines("main")]));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [482]);
    assert_eq!(world.env.rejected(Reject::LoopDetected), 1);
    world.finish();
}
