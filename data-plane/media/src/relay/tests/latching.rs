//! Far-end NAT traversal: which packets fix and move an address.

use super::*;

/// Leg A behind a NAT at 203.0.113.5, signalling a private address.
fn natted() -> SessionConfig {
    let mut config = config();
    let leg = &mut config.streams[0].legs[LegId::A];
    leg.remote = Some(RemoteMedia::with_next_port(address("10.0.0.7:40000")));
    leg.source = SourcePolicy::Latch {
        signalling_ip: ip("203.0.113.5"),
    };
    config
}

#[test]
fn nothing_goes_to_a_private_address_and_the_first_packet_opens_the_way() {
    let mut bench = Bench::new(natted());
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 1)),
        Err(DropReason::NoDestination)
    );
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    let sent = bench.rtp(LegId::B, PHONE_B, &voice(2, 2)).unwrap();
    assert_eq!(sent.destination, address("203.0.113.5:61000"));
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.5:61000"))
    );
}

#[test]
fn a_public_signalled_address_is_used_until_the_latch() {
    let mut config = natted();
    config.streams[0].legs[LegId::A].remote = Some(RemoteMedia::with_next_port(address("203.0.113.5:40000")));
    let mut bench = Bench::new(config);
    let destination =
        |bench: &mut Bench, sequence| bench.rtp(LegId::B, PHONE_B, &voice(2, sequence)).unwrap().destination;
    assert_eq!(destination(&mut bench, 1), address("203.0.113.5:40000"));
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    assert_eq!(destination(&mut bench, 2), address("203.0.113.5:61000"));
}

#[test]
fn plain_rtp_latches_only_to_the_signalling_address() {
    let mut bench = Bench::new(natted());
    assert_eq!(
        bench.rtp(LegId::A, "203.0.113.6:61000", &voice(1, 1)),
        Err(DropReason::WrongSource)
    );
    assert_eq!(bench.session.destination(0, LegId::A), None);
}

/// RTP Bleed: an outsider sprays packets at the media ports and must neither be heard nor be sent to.
#[test]
fn an_outsider_moves_nothing_even_from_the_right_host() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    for (ssrc, sequence) in [(9, 2), (1, 30_000)] {
        assert_eq!(
            bench.rtp(LegId::A, "203.0.113.5:62000", &voice(ssrc, sequence)),
            Err(DropReason::WrongSource)
        );
    }
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.5:61000"))
    );
}

#[test]
fn the_same_source_going_on_from_another_port_is_followed() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    bench.rtp(LegId::A, "203.0.113.5:62000", &voice(1, 2)).unwrap();
    assert_eq!(
        bench.session.destination(0, LegId::A),
        Some(address("203.0.113.5:62000"))
    );
}

/// One-way audio after a re-INVITE: the old stream's last packets spent the new latch and the new stream was refused.
#[test]
fn after_a_reinvite_the_new_stream_is_latched_although_old_packets_still_arrive() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    bench.renegotiate(LegId::A, |_| {});
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 2)).unwrap();
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 1)).unwrap().destination,
        address("203.0.113.5:61000"),
        "audio goes on meanwhile"
    );
    bench.rtp(LegId::A, "203.0.113.5:63000", &voice(77, 500)).unwrap();
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 2)).unwrap().destination,
        address("203.0.113.5:63000")
    );
    assert_eq!(
        bench.rtp(LegId::A, "203.0.113.5:64000", &voice(78, 1)),
        Err(DropReason::WrongSource),
        "one move only"
    );
}

#[test]
fn a_newly_signalled_address_stops_media_to_the_old_one() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    bench.renegotiate(LegId::A, |leg| {
        leg.remote = Some(RemoteMedia::with_next_port(address("10.0.0.8:41000")))
    });
    assert_eq!(
        bench.rtp(LegId::B, PHONE_B, &voice(2, 1)),
        Err(DropReason::NoDestination)
    );
}

#[test]
fn applying_the_same_configuration_again_changes_nothing() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    bench.session.apply(bench.now, bench.config.clone());
    assert_eq!(
        bench.rtp(LegId::A, "203.0.113.5:63000", &voice(77, 500)),
        Err(DropReason::WrongSource)
    );
    assert_eq!(bench.session.stats(LegId::A).rtp_received.packets, 1);
}

#[test]
fn rtcp_has_a_latch_of_its_own_unless_multiplexed() {
    let mut bench = Bench::new(natted());
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    let report = receiver_report(2);
    let rtcp_b = ports(LegId::B, Component::Rtcp);
    assert_eq!(
        bench.send(rtcp_b, "198.51.100.20:50001", &report),
        Err(DropReason::NoDestination)
    );
    bench
        .send(
            ports(LegId::A, Component::Rtcp),
            "203.0.113.5:61777",
            &receiver_report(1),
        )
        .unwrap();
    assert_eq!(
        bench.send(rtcp_b, "198.51.100.20:50001", &report).unwrap().destination,
        address("203.0.113.5:61777")
    );

    let mut config = natted();
    config.streams[0].legs[LegId::A].rtcp_mux = true;
    let mut bench = Bench::new(config);
    bench.rtp(LegId::A, "203.0.113.5:61000", &voice(1, 1)).unwrap();
    assert_eq!(
        bench.send(rtcp_b, "198.51.100.20:50001", &report).unwrap().destination,
        address("203.0.113.5:61000")
    );
}
