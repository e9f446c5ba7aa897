//! Calls from INVITE to BYE.

use std::time::Duration;

use trunkline_shared::call::{AttemptDecision, CallState, EndReason};
use trunkline_sip::header::HeaderName;
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::{MAIN, OTHER, World};

#[test]
fn a_call_is_made_answered_and_ended_by_the_caller() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 200]);
    assert_eq!(world.phones[bob].got(&Method::Ack), 1);
    assert_eq!(world.record().state, CallState::Answered);
    assert_eq!(world.relays.len(), 1);
    assert_eq!(world.engine.gauges().active_calls, 1);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].got(&Method::Bye), 1);
    assert_eq!(world.phones[alice].statuses(&Method::Bye), [200]);
    assert_eq!(world.end().reason, EndReason::CallerBye);
    assert_eq!(world.record().attempts[0].decision, Some(AttemptDecision::Answered));
    world.finish();
}

#[test]
fn the_callee_may_end_the_call() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    assert_eq!(world.phones[bob].statuses(&Method::Bye), [200]);
    assert_eq!(world.end().reason, EndReason::CalleeBye);
    world.finish();
}

#[test]
fn the_edge_stays_in_the_path_of_both_sides() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let invite = world.phones[bob].request(&Method::Invite);
    assert_eq!(
        invite.values(HeaderName::RecordRoute).count(),
        1,
        "one trunk, one address, one value"
    );
    assert_eq!(invite.values(HeaderName::Via).count(), 2);
    assert_eq!(invite.max_forwards(), Some(69));
    assert_eq!(invite.uri_text(), "sip:bob@198.51.100.20:5060");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn two_trunks_get_a_record_route_each() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let carol = world.registered("carol", "198.51.100.30:5060", OTHER);
    world.route(crate::failover::route(
        "r1",
        "main",
        "carol",
        vec![crate::failover::phones("other")],
    ));
    world.act(alice, |phone, now| phone.invite(now, "carol", &[]));
    world.run_seconds(2);
    let routes: Vec<String> = world.phones[carol]
        .request(&Method::Invite)
        .values(HeaderName::RecordRoute)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect();
    assert_eq!(routes.len(), 2);
    assert!(routes[0].contains(OTHER) && routes[1].contains(MAIN), "{routes:?}");
    world.act(carol, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    assert_eq!(world.record().route.as_ref().map(|route| route.as_str()), Some("r1"));
    world.finish();
}

#[test]
fn a_phone_that_forgets_the_route_set_is_served_all_the_same() {
    let (mut world, alice, bob) = World::pair();
    world.phones[alice].forgets_routes = true;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[bob].got(&Method::Ack), 1);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.end().reason, EndReason::CallerBye);
    world.finish();
}

#[test]
fn a_caller_that_cancels_gets_487_and_the_phone_stops_ringing() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Ring;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    world.act(alice, |phone, now| phone.cancel(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Cancel), [200]);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 487]);
    assert_eq!(world.phones[bob].got(&Method::Cancel), 1);
    assert_eq!(world.end().reason, EndReason::CallerCancel);
    world.finish();
}

#[test]
fn an_answer_that_crosses_the_cancel_is_acknowledged_and_ended() {
    // The 200 and the CANCEL are on their way at the same time; which one is first differs by seed.
    for seed in 0..16 {
        let mut world = World::seeded(seed);
        let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
        let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
        world.delay = Duration::from_millis(40);
        world.phones[bob].auto = Auto::Ring;
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(1);
        world.act(alice, |phone, now| phone.cancel(now));
        world.act(bob, |phone, now| phone.answer_now(now, 0));
        world.run_seconds(5);
        let outcome = *world.phones[alice]
            .statuses(&Method::Invite)
            .last()
            .expect("a final response");
        match outcome {
            487 => {
                assert!(world.phones[bob].got(&Method::Ack) >= 1, "seed {seed}");
                assert_eq!(world.phones[bob].got(&Method::Bye), 1, "seed {seed}");
            }
            200 => world.act(alice, |phone, now| phone.bye(now)),
            other => panic!("seed {seed}: {other}"),
        }
        world.finish();
    }
}

#[test]
fn a_busy_phone_ends_the_call_with_its_own_answer() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Refuse(486, Some("Q.850;cause=17"));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [486]);
    assert_eq!(
        world.phones[alice]
            .last(&Method::Invite)
            .and_then(|response| response.q850_cause()),
        Some(17)
    );
    let end = world.end();
    assert_eq!(
        (end.reason, end.sip_status, end.q850_cause),
        (EndReason::TargetRefused, 486, Some(17))
    );
    world.finish();
}

#[test]
fn all_phones_of_a_user_ring_and_the_first_to_answer_has_the_call() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let desk = world.registered("bob", "198.51.100.20:5060", MAIN);
    let mobile = world.registered("bob", "198.51.100.21:5060", MAIN);
    world.phones[desk].auto = Auto::Ring;
    world.phones[mobile].auto = Auto::Answer(Duration::from_secs(3));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(5);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 180, 200]);
    assert_eq!(world.phones[desk].got(&Method::Cancel), 1);
    let reason = world.phones[desk]
        .request(&Method::Cancel)
        .line_text(HeaderName::Reason)
        .map(str::to_owned);
    assert!(reason.is_some_and(|reason| reason.contains("completed elsewhere")));
    assert_eq!(world.relays.len(), 1);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[mobile].got(&Method::Bye), 1);
    assert_eq!(world.phones[desk].got(&Method::Bye), 0);
    world.finish();
}

#[test]
fn two_answers_at_once_leave_one_call() {
    for seed in 0..8 {
        let mut world = World::seeded(seed);
        let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
        let desk = world.registered("bob", "198.51.100.20:5060", MAIN);
        let mobile = world.registered("bob", "198.51.100.21:5060", MAIN);
        world.delay = Duration::from_millis(30);
        for phone in [desk, mobile] {
            world.phones[phone].auto = Auto::Answer(Duration::from_secs(2));
        }
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(5);
        let live = |world: &World| {
            let dialogs = [desk, mobile].map(|phone| {
                world.phones[phone]
                    .dialogs
                    .iter()
                    .filter(|dialog| !dialog.ended)
                    .count()
            });
            dialogs.iter().sum::<usize>()
        };
        assert_eq!(live(&world), 1, "seed {seed}: the second answer is ended by the edge");
        assert_eq!(world.phones[alice].dialogs.len(), 1, "seed {seed}");
        world.act(alice, |phone, now| phone.bye(now));
        world.run_seconds(1);
        assert_eq!(live(&world), 0, "seed {seed}");
        world.finish();
    }
}

#[test]
fn a_6xx_of_one_phone_silences_the_others() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
    let desk = world.registered("bob", "198.51.100.20:5060", MAIN);
    let mobile = world.registered("bob", "198.51.100.21:5060", MAIN);
    world.phones[desk].auto = Auto::Ring;
    world.phones[mobile].auto = Auto::Refuse(603, None);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[desk].got(&Method::Cancel), 1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&603));
    world.finish();
}

#[test]
fn an_answer_by_the_api_hang_up_reaches_both_sides() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    let id = world.record().id;
    assert!(world.hang_up(id));
    world.run_seconds(1);
    for phone in [alice, bob] {
        assert_eq!(world.phones[phone].got(&Method::Bye), 1);
        assert_eq!(world.phones[phone].request(&Method::Bye).q850_cause(), Some(16));
    }
    assert_eq!(world.end().reason, EndReason::ApiHangUp);
    assert!(!world.hang_up(id), "it is over");
    world.finish();
}

#[test]
fn a_ringing_call_can_be_hung_up_too() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Ring;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    let id = world.record().id;
    assert!(world.hang_up(id));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 480]);
    assert_eq!(world.phones[bob].got(&Method::Cancel), 1);
    world.finish();
}

#[test]
fn a_configuration_swapped_in_mid_call_leaves_the_call_alone() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.remove(trunkline_shared::snapshot::ResourceKey::Trunk("main".parse_id()));
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Bye), [200]);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(40);
    assert_eq!(world.records().len(), 1, "a trunk that is gone takes no calls");
    world.finish();
}

trait ParseId {
    fn parse_id(&self) -> trunkline_shared::name::TrunkId;
}

impl ParseId for str {
    fn parse_id(&self) -> trunkline_shared::name::TrunkId {
        trunkline_shared::name::TrunkId::new(self).expect("an id")
    }
}
