//! What passes within a call: re-INVITE, UPDATE, PRACK, INFO, REFER, session timers.

use trunkline_media::relay::{Direction, LegId};
use trunkline_shared::call::EndReason;
use trunkline_sip::header::HeaderName;
use trunkline_sip::method::Method;

use crate::phone::Auto;
use crate::world::World;

fn in_call() -> (World, usize, usize) {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    (world, alice, bob)
}

fn direction(world: &World, leg: LegId) -> Direction {
    world.relays.values().next().expect("a relay session").streams[0].legs[leg].direction
}

#[test]
fn hold_and_resume_reach_the_relay() {
    let (mut world, alice, bob) = in_call();
    assert_eq!(direction(&world, LegId::A), Direction::SendRecv);
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(direction(&world, LegId::A), Direction::RecvOnly);
    assert_eq!(direction(&world, LegId::B), Direction::SendOnly);
    assert_eq!(world.phones[bob].got(&Method::Ack), 2);
    world.act(alice, |phone, now| phone.reinvite(now, "sendrecv"));
    world.run_seconds(1);
    assert_eq!(direction(&world, LegId::A), Direction::SendRecv);
    assert_eq!(world.env.leases(), 2, "the ports stay");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn the_callee_may_reinvite() {
    let (mut world, alice, bob) = in_call();
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    assert_eq!(world.phones[alice].got(&Method::Ack), 1);
    assert_eq!(direction(&world, LegId::B), Direction::RecvOnly);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_refused_reinvite_leaves_the_media_as_it_was() {
    let (mut world, alice, bob) = in_call();
    world.phones[bob].auto = Auto::Refuse(488, None);
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&488));
    assert_eq!(direction(&world, LegId::A), Direction::SendRecv);
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(
        direction(&world, LegId::B),
        Direction::RecvOnly,
        "the next offer is free to be made"
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_phone_that_has_lost_the_call_ends_it_for_both() {
    let (mut world, alice, bob) = in_call();
    world.phones[bob].auto = Auto::Refuse(481, None);
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&481));
    assert_eq!(world.phones[alice].got(&Method::Bye), 1);
    assert_eq!(world.end().reason, EndReason::TargetRefused);
    world.finish();
}

#[test]
fn an_update_renegotiates_media() {
    let (mut world, alice, bob) = in_call();
    let body = {
        world.phones[alice].version += 1;
        world.phones[alice].sdp("sendonly")
    };
    world.act(alice, |phone, now| {
        phone.in_dialog(now, Method::Update, &[], Some(("application/sdp", body)))
    });
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Update), [200]);
    assert_eq!(direction(&world, LegId::B), Direction::SendOnly);
    let _ = bob;
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_reliable_provisional_response_is_acknowledged_end_to_end() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Reliable;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(3);
    assert_eq!(world.phones[bob].got(&Method::Prack), 1);
    assert_eq!(world.phones[alice].statuses(&Method::Prack), [200]);
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [183, 200]);
    assert_eq!(world.relays.len(), 1, "media of the 183 counts for the call");
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn early_media_of_two_phones_has_a_relay_session_each_until_one_answers() {
    let mut world = World::new();
    let alice = world.registered("alice", "198.51.100.10:5060", crate::world::MAIN);
    let desk = world.registered("bob", "198.51.100.20:5060", crate::world::MAIN);
    let mobile = world.registered("bob", "198.51.100.21:5060", crate::world::MAIN);
    world.phones[desk].auto = Auto::EarlyMedia(std::time::Duration::from_secs(60));
    world.phones[mobile].auto = Auto::EarlyMedia(std::time::Duration::from_secs(4));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(world.relays.len(), 2);
    assert_eq!(world.env.leases(), 4);
    world.run_seconds(4);
    assert_eq!(world.relays.len(), 1);
    assert_eq!(world.env.leases(), 2);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn refer_and_its_notify_pass_through_even_after_the_bye() {
    let (mut world, alice, bob) = in_call();
    let refer_to = [("Refer-To", "<sip:carol@192.0.2.1>".to_owned())];
    world.act(alice, |phone, now| phone.in_dialog(now, Method::Refer, &refer_to, None));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Refer), [202]);
    assert_eq!(
        world.phones[bob].request(&Method::Refer).line_text(HeaderName::ReferTo),
        Some("<sip:carol@192.0.2.1>")
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    world.phones[bob].dialogs[0].ended = false;
    let extra = [
        ("Event", "refer".to_owned()),
        ("Subscription-State", "active".to_owned()),
    ];
    world.act(bob, |phone, now| {
        phone.in_dialog(
            now,
            Method::Notify,
            &extra,
            Some(("message/sipfrag", "SIP/2.0 100 Trying".into())),
        )
    });
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Notify), [200]);
    world.finish();
}

#[test]
fn info_passes_with_its_body_untouched() {
    let (mut world, alice, bob) = in_call();
    let body = "Signal=5\r\nDuration=160\r\n".to_owned();
    world.act(alice, |phone, now| {
        phone.in_dialog(now, Method::Info, &[], Some(("application/dtmf-relay", body.clone())))
    });
    world.run_seconds(1);
    assert_eq!(world.phones[bob].request(&Method::Info).body(), body.as_bytes());
    assert_eq!(world.phones[alice].statuses(&Method::Info), [200]);
    world.act(bob, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn requests_of_an_unknown_dialog_get_481() {
    let (mut world, alice, _) = in_call();
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    world.phones[alice].dialogs[0].ended = false;
    world.act(alice, |phone, now| phone.in_dialog(now, Method::Info, &[], None));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Info), [481]);
    world.finish();
}

#[test]
fn silent_media_ends_the_call_on_both_sides() {
    let (mut world, alice, bob) = in_call();
    let idle = world.relays.values().next().expect("a relay session").legs[LegId::B]
        .idle
        .expect("supervision");
    assert_eq!(idle.two_way.as_secs(), 300);
    world.idle(LegId::B);
    world.run_seconds(1);
    for phone in [alice, bob] {
        let reason = world.phones[phone]
            .request(&Method::Bye)
            .line_text(HeaderName::Reason)
            .map(str::to_owned);
        assert_eq!(reason.as_deref(), Some("SIP;cause=408;text=\"RTP idle\""));
    }
    let end = world.end();
    assert_eq!(end.reason, EndReason::RtpIdle);
    assert_eq!(
        end.decided_by.as_ref().map(|by| &*by.setting),
        Some("disconnect_on_idle_rtp")
    );
    world.finish();
}

#[test]
fn a_session_nobody_refreshes_is_ended_by_the_edge() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].session_expires = Some(120);
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(60);
    world.act(alice, |phone, now| phone.reinvite(now, "sendrecv"));
    world.run_seconds(100);
    assert!(world.record().end().is_none(), "refreshed a minute ago");
    world.run_seconds(30);
    assert_eq!(world.end().reason, EndReason::SessionExpired);
    for phone in [alice, bob] {
        assert_eq!(world.phones[phone].got(&Method::Bye), 1);
    }
    world.finish();
}

#[test]
fn the_conversation_header_is_ours_alone() {
    let (mut world, alice, bob) = World::pair();
    world.trunk("main", |trunk| trunk.conversation_header = true);
    let forged = [
        ("x-inin-cnv", "00000000-0000-4000-8000-000000000000".to_owned()),
        ("X-PCV-Foo", "1".to_owned()),
    ];
    world.act(alice, |phone, now| phone.invite(now, "bob", &forged));
    world.run_seconds(2);
    let id = world.record().id.to_string();
    let invite = world.phones[bob].request(&Method::Invite);
    let name = trunkline_sip::header::FieldName::from("x-inin-cnv");
    assert_eq!(invite.lines(name).collect::<Vec<_>>(), [id.as_bytes()]);
    assert!(!invite.contains("X-PCV-Foo"));
    assert_eq!(
        world.phones[alice]
            .last(&Method::Invite)
            .and_then(|response| response.line_text(name)),
        Some(&*id)
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].request(&Method::Bye).line_text(name), Some(&*id));
    world.finish();
}

#[test]
fn the_language_of_the_trunk_goes_out_when_the_caller_names_none() {
    let (mut world, alice, bob) = World::pair();
    world.trunk("main", |trunk| trunk.language = "de-DE".parse().expect("a tag"));
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(2);
    assert_eq!(
        world.phones[bob]
            .request(&Method::Invite)
            .line_text(HeaderName::AcceptLanguage),
        Some("de-DE")
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.run_seconds(1);
    world.act(alice, |phone, now| {
        phone.invite(now, "bob", &[("Accept-Language", "fr".to_owned())])
    });
    world.run_seconds(2);
    assert_eq!(
        world.phones[bob]
            .request(&Method::Invite)
            .line_text(HeaderName::AcceptLanguage),
        Some("fr")
    );
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_prack_may_carry_the_next_offer() {
    let (mut world, alice, bob) = World::pair();
    world.phones[bob].auto = Auto::Reliable;
    world.phones[alice].offers_in_prack = true;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(3);
    let prack = world.phones[bob].request(&Method::Prack);
    let offer = String::from_utf8_lossy(prack.body()).into_owned();
    assert!(
        offer.contains("a=sendonly") && offer.contains("c=IN IP4 192.0.2.1"),
        "{offer}"
    );
    let answered = world.phones[alice].last(&Method::Prack).expect("an answer");
    assert!(String::from_utf8_lossy(answered.body()).contains("a=recvonly"));
    assert_eq!(world.phones[alice].statuses(&Method::Invite), [183, 200]);
    assert_eq!(direction(&world, LegId::A), Direction::RecvOnly);
    assert_eq!(direction(&world, LegId::B), Direction::SendOnly);
    // The exchange is complete: the next one may begin.
    world.act(bob, |phone, now| phone.reinvite(now, "sendrecv"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn what_a_phone_can_do_is_no_offer() {
    let (mut world, alice, bob) = in_call();
    world.act(alice, |phone, now| phone.in_dialog(now, Method::Options, &[], None));
    world.run_seconds(1);
    let answered = world.phones[alice].last(&Method::Options).expect("an answer");
    assert!(answered.status().is_success() && !answered.body().is_empty());
    world.act(alice, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(world.phones[alice].statuses(&Method::Invite).last(), Some(&200));
    assert_eq!(direction(&world, LegId::A), Direction::RecvOnly);
    assert_eq!(direction(&world, LegId::B), Direction::SendOnly);
    world.act(bob, |phone, now| phone.reinvite(now, "sendrecv"));
    world.run_seconds(1);
    assert_eq!(world.phones[bob].statuses(&Method::Invite), [200]);
    world.act(bob, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn a_call_nobody_acknowledges_ends() {
    let (mut world, alice, bob) = World::pair();
    world.phones[alice].never_acks = true;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(30);
    assert!(world.record().end().is_none());
    world.run_seconds(10);
    assert_eq!(world.end().reason, EndReason::NoAck);
    for phone in [alice, bob] {
        assert_eq!(world.phones[phone].got(&Method::Bye), 1);
    }
    world.finish();
}

#[test]
fn a_call_without_any_media_ends_like_one_that_fell_silent() {
    let (mut world, alice, bob) = World::pair();
    world.phones[alice].delayed_offer = true;
    world.phones[bob].auto = Auto::Mute;
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    world.run_seconds(200);
    assert!(world.record().end().is_none());
    world.run_seconds(110);
    assert_eq!(world.end().reason, EndReason::RtpIdle);
    for phone in [alice, bob] {
        assert_eq!(world.phones[phone].got(&Method::Bye), 1);
    }
    world.finish();
}

#[test]
fn a_strict_router_before_the_edge_is_understood() {
    let (mut world, alice, bob) = in_call();
    let dialog = world.phones[alice].dialogs[0].clone();
    // RFC 3261 §16.12.1.2: the Request-URI is our Record-Route, the target stands last.
    let ours = dialog.routes[0].trim_matches(['<', '>']).replace(";lr", "");
    let mut routes: Vec<(&str, String)> = dialog.routes[1..]
        .iter()
        .map(|route| ("Route", route.clone()))
        .collect();
    routes.push(("Route", format!("<{}>", dialog.target)));
    world.act(alice, |phone, now| {
        phone.send_as(
            now,
            &Method::Info,
            &ours,
            &dialog.call_id,
            dialog.local_cseq + 1,
            &dialog.local,
            &dialog.remote,
            &routes,
            None,
        );
    });
    world.run_seconds(1);
    let info = world.phones[bob].request(&Method::Info);
    assert_eq!(info.uri_text(), dialog.target);
    assert!(!info.contains(HeaderName::Route));
    assert_eq!(world.phones[alice].statuses(&Method::Info), [200]);
    world.phones[alice].dialogs[0].local_cseq += 1;
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}

#[test]
fn an_ack_cannot_make_an_offer() {
    let (mut world, alice, bob) = World::pair();
    world.act(alice, |phone, now| phone.invite(now, "bob", &[]));
    // The offer was in the INVITE, and now another description goes into the ACK.
    world.phones[alice].delayed_offer = true;
    world.run_seconds(2);
    let ack = world.phones[bob].request(&Method::Ack);
    assert!(ack.body().is_empty() && !ack.contains(HeaderName::ContentType));
    world.act(bob, |phone, now| phone.reinvite(now, "sendonly"));
    world.run_seconds(1);
    assert_eq!(direction(&world, LegId::B), Direction::RecvOnly);
    world.act(alice, |phone, now| phone.bye(now));
    world.finish();
}
