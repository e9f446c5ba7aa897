use super::*;
use crate::timer::TimerConfig;
use crate::transaction::tests::{Row, bytes, check_table, seconds};
use Input::{Request, TransportError};
use ServerNonInvite::{Completed, Proceeding, Terminated, Trying};

const EARLY: ServerNonInvite = Trying { hundred_due: false };
const DUE: ServerNonInvite = Trying { hundred_due: true };

fn proceeding() -> ServerNonInvite {
    Proceeding {
        provisional: bytes("100"),
    }
}

fn completed() -> ServerNonInvite {
    Completed { response: bytes("200") }
}

fn states() -> Vec<ServerNonInvite> {
    vec![EARLY, DUE, proceeding(), completed(), Terminated]
}

fn inputs() -> Vec<Input> {
    let mut inputs = vec![
        Request,
        Input::Provisional(bytes("100")),
        Input::Final(bytes("200")),
        TransportError,
    ];
    inputs.extend([Timer::Trying, Timer::Unanswered, Timer::J].map(Input::Timer));
    inputs
}

fn rows(end: ServerNonInvite, answered: Vec<Action>) -> Vec<Row<ServerNonInvite, Input>> {
    let inform = |notice| vec![Action::Inform(notice)];
    let hundred = vec![Action::Send(bytes("100")), Action::Disarm(Timer::Trying)];
    let mut rows = vec![
        (EARLY, Input::Timer(Timer::Trying), DUE, inform(Notice::TryingDue)),
        (DUE, Input::Timer(Timer::Trying), DUE, inform(Notice::TryingDue)),
        (DUE, Input::Provisional(bytes("100")), proceeding(), hundred.clone()),
        (proceeding(), Input::Provisional(bytes("100")), proceeding(), hundred),
        (proceeding(), Request, proceeding(), vec![Action::Resend(bytes("100"))]),
        (completed(), Request, completed(), vec![Action::Resend(bytes("200"))]),
        (completed(), Input::Timer(Timer::J), Terminated, vec![]),
        (completed(), TransportError, Terminated, inform(Notice::TransportError)),
    ];
    for from in [EARLY, DUE, proceeding()] {
        rows.extend([
            (from.clone(), Input::Final(bytes("200")), end.clone(), answered.clone()),
            (
                from.clone(),
                Input::Timer(Timer::Unanswered),
                Terminated,
                inform(Notice::Unanswered),
            ),
            (from, TransportError, Terminated, inform(Notice::TransportError)),
        ]);
    }
    rows
}

#[test]
fn every_state_and_event_over_udp() {
    let answered = vec![
        Action::Send(bytes("200")),
        Action::Disarm(Timer::Trying),
        Action::Disarm(Timer::Unanswered),
        Action::Arm(Timer::J, seconds(32.0)),
    ];
    let rows = rows(completed(), answered);
    check_table(
        Reliability::Unreliable,
        &states(),
        &inputs(),
        &rows,
        ServerNonInvite::step,
    );
}

#[test]
fn every_state_and_event_over_tcp() {
    let rows = rows(Terminated, vec![Action::Send(bytes("200"))]);
    check_table(
        Reliability::Reliable,
        &states(),
        &inputs(),
        &rows,
        ServerNonInvite::step,
    );
}

#[test]
fn no_100_before_timer_e_of_the_client_is_t2_over_udp() {
    let timers = TimerConfig::default();
    let start = |reliability| {
        ServerNonInvite::start(Context {
            timers: &timers,
            reliability,
        })
    };
    let (state, actions) = start(Reliability::Unreliable);
    assert_eq!(state, EARLY);
    assert_eq!(
        actions.as_slice(),
        [
            Action::Arm(Timer::Trying, seconds(3.5)),
            Action::Arm(Timer::Unanswered, seconds(32.0))
        ]
    );
    assert_eq!(
        start(Reliability::Reliable).0,
        DUE,
        "RFC 4320 §4.1: at any time over TCP"
    );
}
