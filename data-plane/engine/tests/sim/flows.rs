//! Flows that change or vanish under a call, and the two address families.

use std::net::SocketAddr;

use trunkline_engine::io::Env as _;
use trunkline_shared::binding::Aor;
use trunkline_shared::call::EndReason;
use trunkline_shared::name::{TrunkId, WorkerId};
use trunkline_shared::reject::Reject;
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Fields;
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::{MAIN, MAIN6, SECURE, World};

fn body(message: &Fields) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

/// Alice and Bob by TLS.
fn secure_pair() -> (World, usize, usize) {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:40000", SECURE);
    let bob = world.registered("bob", "198.51.100.20:40000", SECURE);
    (world, alice, bob)
}

#[test]
fn a_call_between_phones_with_ipv6_addresses() {
    let mut world = World::new();
    let alice = world.registered("alice", "[2001:db8::10]:5060", MAIN6);
    let bob = world.registered("bob", "[2001:db8::20]:5060", MAIN6);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    let invite = world.phones[bob].request(&Method::Invite);
    let via = String::from_utf8_lossy(invite.line(HeaderName::Via).expect("a Via")).into_owned();
    assert!(via.starts_with("SIP/2.0/UDP [2001:db8::1]:8060;"), "{via}");
    assert!(body(invite).contains("c=IN IP6 2001:db8::1\r\n"), "{}", body(invite));
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Bye), [200]);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    world.finish();
}

#[test]
fn a_phone_with_an_ipv6_address_calls_one_with_an_ipv4_address() {
    let mut world = World::new();
    let alice = world.registered("alice", "[2001:db8::10]:5060", MAIN6);
    let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    let offer = body(world.phones[bob].request(&Method::Invite));
    assert!(
        offer.contains("c=IN IP4 192.0.2.1\r\n") && !offer.contains("IP6"),
        "{offer}"
    );
    let answer = body(world.phones[alice].last(&Method::Invite).expect("an answer"));
    assert!(
        answer.contains("c=IN IP6 2001:db8::1\r\n") && !answer.contains("IP4"),
        "{answer}"
    );
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    world.finish();
}

#[test]
fn a_connection_lost_before_the_phone_said_anything_fails_the_call() {
    let (mut world, alice, bob) = secure_pair();
    world.phones[bob].auto = Auto::Silent;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    world.disconnect(bob);
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [430]);
    assert_eq!(world.end().reason, EndReason::Rejected(Reject::FlowFailed));
    assert_eq!(world.env.leases(), 0);
    world.finish();
}

#[test]
fn a_phone_that_rings_may_connect_anew_and_answer() {
    let (mut world, alice, bob) = secure_pair();
    world.phones[bob].auto = Auto::Ring;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    world.disconnect(bob);
    world.run_seconds(3);
    world.act(bob, |phone, now| phone.answer_now(now, 0));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [180, 200]);
    assert_eq!(world.phones[bob].got(&Method::Ack), 1, "over the new connection");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_call_to_a_connection_that_is_gone_fails_at_once() {
    let (mut world, alice, bob) = secure_pair();
    world.disconnect(bob);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [430]);
    world.finish();
}

#[test]
fn a_call_whose_callee_has_lost_its_connection_can_be_hung_up() {
    let (mut world, alice, bob) = secure_pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.disconnect(bob);
    assert!(world.record().end().is_none(), "its media may still flow");
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Bye), [200]);
    assert_eq!(world.end().reason, EndReason::CallerBye);
    assert_eq!(world.env.slots_taken(), 0);
    world.finish();
}

#[test]
fn a_phone_that_has_connected_anew_goes_on_with_its_call() {
    let (mut world, alice, bob) = secure_pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.disconnect(bob);
    world.act(bob, |phone, now| phone.reinvite(now, "sendrecv"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].got(&Method::Bye), 1, "over the new connection");
    world.finish();
}

#[test]
fn a_nat_that_changes_the_port_during_a_call_is_followed() {
    let (mut world, alice, bob) = World::pair();
    world.trunk("main", |trunk| trunk.fent = true);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    world.phones[alice].address = "198.51.100.10:61000".parse().expect("an address");
    world.act(alice, |phone, now| phone.in_dialog(now, Method::Info, &[], None));
    world.run_seconds(1);
    world.act(bob, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    world.finish();
}

#[test]
fn bindings_from_before_a_restart_are_reached_through_their_nat() {
    for (worker, status) in [("w1", 200), ("w2", 430)] {
        let (mut world, alice, bob) = World::pair();
        world.trunk("main", |trunk| trunk.fent = true);
        let aor = Aor {
            trunk: TrunkId::new("main").expect("an id"),
            user: "bob".into(),
        };
        // Bob's Contact is private; the NAT's address is the source of its REGISTER.
        world.env.update_contacts(&aor, &mut |contacts| {
            contacts[0].flow = None;
            contacts[0].binding.worker = Some(WorkerId::new(worker).expect("an id"));
            contacts[0].binding.contact_uri = "sip:bob@10.0.0.1:5060".into();
            true
        });
        world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
        world.run_seconds(2);
        assert_eq!(
            world.phones[alice].statuses(&Method::Invite).last(),
            Some(&status),
            "{worker}"
        );
        let bobs: SocketAddr = world.phones[bob].address;
        let reached = world
            .sent
            .iter()
            .any(|(to, bytes)| *to == bobs && bytes.starts_with(b"INVITE sip:bob@10.0.0.1"));
        assert_eq!(reached, status == 200, "{worker}");
        if reached {
            world.act(bob, |phone, now| phone.bye(now));
        }
        world.finish();
    }
}
