use super::*;
use crate::timer::TimerConfig;
use crate::transaction::tests::{Row, bytes, check_table, seconds};
use ClientNonInvite::{Completed, Proceeding, Terminated, Trying};
use Input::{Final, Provisional, TransportError};

fn trying(interval: f64) -> ClientNonInvite {
    Trying {
        request: bytes("BYE"),
        backoff: Backoff::capped(seconds(interval), seconds(4.0)),
    }
}

fn proceeding() -> ClientNonInvite {
    Proceeding { request: bytes("BYE") }
}

fn states() -> Vec<ClientNonInvite> {
    vec![trying(0.5), trying(4.0), proceeding(), Completed, Terminated]
}

fn inputs() -> Vec<Input> {
    let mut inputs = vec![Provisional, Final, TransportError];
    inputs.extend([Timer::E, Timer::F, Timer::K].map(Input::Timer));
    inputs
}

fn rows(completed: ClientNonInvite, finals: Vec<Action>) -> Vec<Row<ClientNonInvite, Input>> {
    let resend = |after| vec![Action::Resend(bytes("BYE")), Action::Arm(Timer::E, seconds(after))];
    let mut rows = vec![
        (trying(0.5), Input::Timer(Timer::E), trying(1.0), resend(1.0)),
        (trying(4.0), Input::Timer(Timer::E), trying(4.0), resend(4.0)),
        (proceeding(), Input::Timer(Timer::E), proceeding(), resend(4.0)),
        (Completed, Input::Timer(Timer::K), Terminated, vec![]),
    ];
    for from in [trying(0.5), trying(4.0), proceeding()] {
        let inform = |notice| vec![Action::Inform(notice)];
        rows.extend([
            (from.clone(), Provisional, proceeding(), vec![Action::Pass]),
            (from.clone(), Final, completed.clone(), finals.clone()),
            (
                from.clone(),
                Input::Timer(Timer::F),
                Terminated,
                inform(Notice::Timeout),
            ),
            (from, TransportError, Terminated, inform(Notice::TransportError)),
        ]);
    }
    rows
}

#[test]
fn every_state_and_event_over_udp() {
    let finals = vec![
        Action::Pass,
        Action::Disarm(Timer::E),
        Action::Disarm(Timer::F),
        Action::Arm(Timer::K, seconds(5.0)),
    ];
    check_table(
        Reliability::Unreliable,
        &states(),
        &inputs(),
        &rows(Completed, finals),
        ClientNonInvite::step,
    );
}

#[test]
fn every_state_and_event_over_tcp() {
    let rows = rows(Terminated, vec![Action::Pass]);
    check_table(
        Reliability::Reliable,
        &states(),
        &inputs(),
        &rows,
        ClientNonInvite::step,
    );
}

#[test]
fn timer_e_runs_over_udp_only() {
    let timers = TimerConfig::default();
    let start = |reliability| {
        ClientNonInvite::start(
            bytes("BYE"),
            Context {
                timers: &timers,
                reliability,
            },
        )
    };
    let (send, f) = (Action::Send(bytes("BYE")), Action::Arm(Timer::F, seconds(32.0)));
    let (state, actions) = start(Reliability::Unreliable);
    assert_eq!(state, trying(0.5));
    assert_eq!(
        actions.as_slice(),
        [send.clone(), Action::Arm(Timer::E, seconds(0.5)), f.clone()]
    );
    assert_eq!(start(Reliability::Reliable).1.as_slice(), [send, f]);
}
