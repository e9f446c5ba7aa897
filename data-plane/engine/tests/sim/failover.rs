//! The next target of a route: when it is tried, and when not.

use trunkline_shared::call::{AttemptDecision, EndReason};
use trunkline_shared::name::{RouteId, TrunkId};
use trunkline_shared::reject::Reject;
use trunkline_shared::route::{Route, RouteMatch, Target, TargetKind, UserMatch};
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::{MAIN, OTHER, World};

pub fn phones(trunk: &str) -> Target {
    Target::phones_of(TrunkId::new(trunk).expect("a trunk id"))
}

pub fn lines(trunk: &str) -> Target {
    Target {
        kind: TargetKind::Lines(TrunkId::new(trunk).expect("a trunk id")),
        strip: 0,
        prefix: "".into(),
    }
}

pub fn line(trunk: &str, line: &str) -> Target {
    Target {
        kind: TargetKind::Line(format!("trunks/{trunk}/lines/{line}").parse().expect("a name")),
        strip: 0,
        prefix: "".into(),
    }
}

pub fn route(id: &str, inbound: &str, user: &str, targets: Vec<Target>) -> Route {
    Route {
        id: RouteId::new(id).expect("a route id"),
        display_name: "".into(),
        priority: 10,
        enabled: true,
        matcher: RouteMatch {
            inbound_trunk: Some(TrunkId::new(inbound).expect("a trunk id")),
            user: UserMatch::Prefix(user.into()),
            host: None,
        },
        targets,
        language: None,
    }
}

/// Alice on `main`, two lines of `other`: the first is `first`, the second `second`.
fn two_lines() -> (World, usize, usize, usize) {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let first = world.phone("first", "203.0.113.1:5060", OTHER);
    let second = world.phone("second", "203.0.113.2:5060", OTHER);
    world.line("other", "first", "203.0.113.1", 1);
    world.line("other", "second", "203.0.113.2", 2);
    world.route(route("out", "main", "0", vec![lines("other")]));
    (world, alice, first, second)
}

#[test]
fn a_line_that_is_out_of_order_hands_the_call_to_the_next_one() {
    let (mut world, alice, first, second) = two_lines();
    world.phones[first].auto = Auto::Refuse(503, None);
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    assert_eq!(world.phones[second].got(&Method::Invite), 1);
    let attempts = &world.record().attempts;
    let facts: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.sip_status, attempt.decision))
        .collect();
    assert_eq!(
        facts,
        [
            (503, Some(AttemptDecision::NextTarget)),
            (200, Some(AttemptDecision::Answered))
        ]
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_busy_line_is_not_tried_elsewhere() {
    let (mut world, alice, first, second) = two_lines();
    world.phones[first].auto = Auto::Refuse(486, None);
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [486]);
    assert_eq!(world.phones[second].got(&Method::Invite), 0);
    assert_eq!(world.end().reason, EndReason::TargetRefused);
    world.finish();
}

#[test]
fn a_cause_of_the_list_is_enough_to_try_the_next_line() {
    let (mut world, alice, first, second) = two_lines();
    world.phones[first].auto = Auto::Refuse(404, Some("Q.850;cause=3"));
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[second].got(&Method::Invite), 1);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_line_that_cannot_be_reached_counts_as_503() {
    let (mut world, alice, first, second) = two_lines();
    world
        .unreachable
        .insert("203.0.113.1:5060".parse().expect("an address"));
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[first].got(&Method::Invite), 0);
    assert_eq!(world.phones[second].got(&Method::Invite), 1);
    assert_eq!(world.record().attempts[0].sip_status, 503);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn the_last_failure_of_a_route_goes_up_and_a_503_as_500() {
    let (mut world, alice, first, second) = two_lines();
    world.phones[first].auto = Auto::Refuse(500, None);
    world.phones[second].auto = Auto::Refuse(503, None);
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [500]);
    world.finish();
}

#[test]
fn a_line_behind_a_name_is_looked_up_and_its_second_address_tried() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let good = world.phone("good", "203.0.113.2:5060", OTHER);
    world.line("other", "named", "pbx.example.com", 1);
    world.names.insert(
        "pbx.example.com".into(),
        vec![
            "203.0.113.1:5060".parse().expect("an address"),
            "203.0.113.2:5060".parse().expect("an address"),
        ],
    );
    world
        .unreachable
        .insert("203.0.113.1:5060".parse().expect("an address"));
    world.route(route("out", "main", "0", vec![lines("other")]));
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[good].got(&Method::Invite), 1);
    assert_eq!(world.record().attempts.len(), 1, "two addresses are one attempt");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_name_that_leads_nowhere_is_a_failed_attempt() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    world.line("other", "named", "nowhere.example.com", 1);
    world.route(route("out", "main", "0", vec![lines("other")]));
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [503]);
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::TargetUnreachable));
    world.finish();
}

#[test]
fn a_line_that_says_nothing_is_given_up_after_the_dial_timeout() {
    let (mut world, alice, first, second) = two_lines();
    world.trunk("other", |trunk| {
        trunk.max_dial_timeout = std::time::Duration::from_secs(10)
    });
    world.phones[first].auto = Auto::Ring;
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(12);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 408]);
    assert_eq!(
        world.phones[alice]
            .last(&Method::Invite)
            .and_then(|response| response.q850_cause()),
        Some(102)
    );
    assert_eq!(world.phones[first].got(&Method::Cancel), 1);
    assert_eq!(
        world.phones[second].got(&Method::Invite),
        0,
        "a 408 is not in the default list"
    );
    let decided = world.end().decided_by.clone().expect("the setting");
    assert_eq!((&*decided.setting, &*decided.value), ("max_dial_timeout", "10s"));
    world.finish();
}

#[test]
fn a_late_answer_after_the_dial_timeout_is_ended() {
    let (mut world, alice, first, _) = two_lines();
    world.trunk("other", |trunk| {
        trunk.max_dial_timeout = std::time::Duration::from_secs(5)
    });
    world.phones[first].auto = Auto::Ring;
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run(std::time::Duration::from_millis(4900));
    // The first CANCEL is lost, and so is what the caller is told; the line answers before the next one.
    world.loss = 1.0;
    world.run(std::time::Duration::from_millis(300));
    world.loss = 0.0;
    world.act(first, |phone, now| phone.answer_now(now, 0));
    world.run_seconds(5);
    assert_eq!(world.phones[first].got(&Method::Ack), 1);
    assert_eq!(world.phones[first].got(&Method::Bye), 1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&408));
    world.finish();
}

#[test]
fn a_line_that_never_says_anything_is_not_cancelled() {
    let (mut world, alice, first, _) = two_lines();
    world.trunk("other", |trunk| {
        trunk.max_dial_timeout = std::time::Duration::from_secs(5)
    });
    world.phones[first].auto = Auto::Silent;
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(6);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [408]);
    assert_eq!(
        world.phones[first].got(&Method::Cancel),
        0,
        "no CANCEL before a provisional response"
    );
    world.finish();
}

#[test]
fn numbers_are_rewritten_for_the_target() {
    let (mut world, alice, first, _) = two_lines();
    let mut target = lines("other");
    (target.strip, target.prefix) = (1, "+49".into());
    world.route(route("out", "main", "0", vec![target]));
    world.act(alice, |phone, now| phone.invite(now, "030123", &[]));
    world.run_seconds(2);
    assert_eq!(
        world.phones[first].request(&Method::Invite).uri_text(),
        "sip:+4930123@203.0.113.1"
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn contacts_of_lower_q_ring_when_those_of_higher_q_fail() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let desk = world.phone("bob", "198.51.100.20:5060", MAIN);
    let mobile = world.phone("bob", "198.51.100.21:5060", MAIN);
    for (phone, q) in [(desk, "1.0"), (mobile, "0.5")] {
        let contact = format!("<{}>;q={q}", world.phones[phone].contact());
        world.act(phone, |phone, now| phone.register_contact(now, &contact, &[]));
    }
    world.run_seconds(1);
    world.phones[desk].auto = Auto::Refuse(480, None);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[mobile].got(&Method::Invite), 1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_trunk_that_failed_gets_its_slot_back_while_the_next_one_rings() {
    let (mut world, alice, first, _) = two_lines();
    let bob = world.registered("0123", "198.51.100.20:5060", MAIN);
    world.phones[first].auto = Auto::Refuse(503, None);
    world.phones[bob].auto = Auto::Ring;
    world.route(route("out", "main", "0", vec![line("other", "first"), phones("main")]));
    world.act(alice, |phone, now| phone.invite(now, "0123", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180]);
    assert_eq!(world.env.slots_of("other"), 0);
    assert_eq!(world.env.slots_of("main"), 2, "one for each leg");
    world.act(alice, |phone, now| phone.cancel(now));
    world.finish();
}
