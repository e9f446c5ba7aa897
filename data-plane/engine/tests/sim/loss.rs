//! Calls over a network that loses, repeats and reorders.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use trunkline_engine::metrics::Counter;
use trunkline_shared::call::EndReason;
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::{MAIN, World};

#[test]
fn calls_survive_loss_repetition_and_reordering() {
    let mut answered = 0;
    for seed in 0..40 {
        let mut world = World::seeded(seed);
        let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
        let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
        world.loss = 0.2;
        world.repeat = 0.1;
        world.delay = Duration::from_millis(200);
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(40);
        if world.phones[alice].statuses(&Method::Invite).contains(&200) {
            answered += 1;
            world.act(alice, |phone, now| phone.bye(now));
            world.run_seconds(40);
            assert!(world.phones[bob].dialogs.iter().all(|dialog| dialog.ended) || world.record().end().is_some());
            assert_eq!(world.end().reason, EndReason::CallerBye, "seed {seed}");
        }
        world.finish();
    }
    assert!(answered >= 36, "{answered} of 40 calls were answered");
}

#[test]
fn cancels_survive_loss() {
    for seed in 0..20 {
        let mut world = World::seeded(seed);
        let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
        let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
        world.loss = 0.25;
        world.delay = Duration::from_millis(100);
        world.phones[bob].auto = Auto::Ring;
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(5);
        world.act(alice, |phone, now| phone.cancel(now));
        world.run_seconds(70);
        assert!(world.record().end().is_some(), "seed {seed}");
        world.finish();
    }
}

#[test]
fn a_phone_that_is_gone_costs_the_caller_a_408() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Silent;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(130);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&408));
    assert_eq!(
        world.env.counted(Counter::RetransmissionsSent),
        6,
        "timer A, seven INVITEs in all"
    );
    world.finish();
}

#[test]
fn a_repeated_answer_gets_the_same_answer_body() {
    let (mut world, alice, _) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run(Duration::from_millis(1002));
    // The ACK is lost: the phone repeats its 200.
    world.loss = 1.0;
    world.run(Duration::from_millis(300));
    world.loss = 0.0;
    world.run_seconds(10);
    let bodies: Vec<_> = world.phones[alice]
        .responses
        .iter()
        .filter(|response| response.status().is_success() && *response.cseq_method() == Method::Invite)
        .map(|response| response.body().to_vec())
        .collect();
    assert!(!bodies.is_empty() && bodies.iter().all(|body| *body == bodies[0]));
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn damaged_messages_break_nothing() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Reliable;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(2);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(2);
    let heard = std::mem::take(&mut world.heard);
    let mut rng = StdRng::seed_from_u64(7);
    for round in 0..4000 {
        let mut bytes = heard[round % heard.len()].to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, rng.random()),
                _ => {
                    let other = &heard[rng.random_range(0..heard.len())];
                    bytes.truncate(at.max(1));
                    bytes.extend_from_slice(&other[at.min(other.len())..]);
                }
            }
        }
        let (now, flow) = (world.clock(), world.flow(alice));
        world.engine.handle_message(now, &world.env, flow, bytes.into());
        while world.engine.poll_effect().is_some() {}
    }
    for _ in 0..2000 {
        let now = world.clock();
        world.engine.handle_timeout(now, &world.env);
        while world.engine.poll_effect().is_some() {}
        world.now += Duration::from_secs(2);
    }
    assert_eq!(world.engine.gauges().transactions, 0);
    assert_eq!(
        world.engine.gauges().active_calls,
        0,
        "nobody answers, so every call is given up"
    );
    assert_eq!((world.env.leases(), world.env.slots_taken()), (0, 0));
}
