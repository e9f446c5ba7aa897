//! Idle supervision.

use super::*;

const TWO_WAY: Duration = Duration::from_secs(300);
const ONE_WAY: Duration = Duration::from_secs(12 * 3600);

#[test]
fn a_two_way_leg_is_idle_after_five_minutes_without_rtp() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.session.idle_deadline(), Some(bench.start + TWO_WAY));
    bench.advance(Duration::from_secs(100));
    bench.rtp(LegId::A, PHONE_A, &voice(1, 1)).unwrap();
    assert_eq!(
        bench.session.idle_deadline(),
        Some(bench.start + TWO_WAY),
        "leg B has not been heard"
    );
    bench.now = bench.start + TWO_WAY - Duration::from_millis(1);
    assert_eq!(bench.session.check_idle(bench.now), None);
    bench.advance(Duration::from_millis(1));
    assert_eq!(
        bench.session.check_idle(bench.now),
        Some(IdleLeg {
            leg: LegId::B,
            since: bench.start
        })
    );
}

#[test]
fn every_valid_packet_restarts_the_timer_wherever_it_ends() {
    let mut config = config();
    config.streams[0].legs[LegId::B].remote = None;
    let mut bench = Bench::new(config);
    for sequence in 0..20 {
        bench.advance(Duration::from_secs(60));
        assert_eq!(
            bench.rtp(LegId::A, PHONE_A, &voice(1, sequence)),
            Err(DropReason::NoDestination)
        );
    }
    let idle = bench.session.check_idle(bench.now).unwrap();
    assert_eq!(idle.leg, LegId::B, "leg A was heard a moment ago");
}

#[test]
fn rtcp_strangers_and_noise_do_not_keep_a_leg_alive() {
    let mut bench = Bench::new(config());
    bench.advance(Duration::from_secs(200));
    bench.rtp(LegId::B, PHONE_B, &voice(2, 1)).unwrap();
    bench
        .send(
            ports(LegId::A, Component::Rtcp),
            "192.0.2.10:40001",
            &receiver_report(1),
        )
        .unwrap();
    bench.rtp(LegId::A, "192.0.2.66:1", &voice(1, 1)).unwrap_err();
    bench.rtp(LegId::A, PHONE_A, b"noise").unwrap_err();
    bench.now = bench.start + TWO_WAY;
    assert_eq!(
        bench.session.check_idle(bench.now),
        Some(IdleLeg {
            leg: LegId::A,
            since: bench.start
        })
    );
}

#[test]
fn a_held_leg_has_twelve_hours_and_resuming_starts_again() {
    let mut bench = Bench::new(config());
    bench.config.legs[LegId::B].idle = None;
    bench.advance(Duration::from_secs(250));
    bench.renegotiate(LegId::A, |leg| leg.direction = Direction::SendOnly);
    let held = bench.now;
    assert_eq!(bench.session.idle_deadline(), Some(held + ONE_WAY));
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.session.check_idle(bench.now), None);
    bench.renegotiate(LegId::A, |leg| leg.direction = Direction::SendRecv);
    assert_eq!(bench.session.idle_deadline(), Some(bench.now + TWO_WAY));
}

#[test]
fn supervision_starts_when_it_is_switched_on() {
    let mut config = config();
    let answered = config.clone();
    config.legs = PerLeg::default();
    let mut bench = Bench::new(config);
    assert_eq!(bench.session.idle_deadline(), None);
    bench.advance(Duration::from_secs(1000));
    assert_eq!(bench.session.check_idle(bench.now), None);
    bench.session.apply(bench.now, answered);
    assert_eq!(bench.session.check_idle(bench.now), None);
    assert_eq!(bench.session.idle_deadline(), Some(bench.now + TWO_WAY));
}
