use super::*;
use crate::timer::TimerConfig;
use crate::transaction::tests::{Row, bytes, check_table, seconds};
use Input::{Ack, Request, TransportError};
use ServerInvite::{Accepted, Completed, Confirmed, Proceeding, Received, Terminated};

fn proceeding(response: &'static str) -> ServerInvite {
    Proceeding {
        provisional: bytes(response),
    }
}

fn completed(interval: f64) -> ServerInvite {
    Completed {
        response: bytes("486"),
        backoff: Backoff::capped(seconds(interval), seconds(4.0)),
    }
}

fn states() -> Vec<ServerInvite> {
    vec![
        Received,
        proceeding("100"),
        completed(0.5),
        completed(4.0),
        Confirmed,
        Accepted,
        Terminated,
    ]
}

fn inputs() -> Vec<Input> {
    let mut inputs = vec![
        Request,
        Ack,
        Input::Provisional(bytes("180")),
        Input::Success(bytes("200")),
        Input::Failure(bytes("486")),
        TransportError,
    ];
    inputs.extend([Timer::Trying, Timer::Unanswered, Timer::G, Timer::H, Timer::I, Timer::L].map(Input::Timer));
    inputs
}

fn rows(failed: Vec<Action>, acknowledged: (ServerInvite, Vec<Action>)) -> Vec<Row<ServerInvite, Input>> {
    let send = |response| Action::Send(bytes(response));
    let resend = |response| vec![Action::Resend(bytes(response))];
    let arm = |timer, after| Action::Arm(timer, seconds(after));
    let inform = |notice| vec![Action::Inform(notice)];
    let accept = vec![
        send("200"),
        Action::Disarm(Timer::Trying),
        Action::Disarm(Timer::Unanswered),
        arm(Timer::L, 32.0),
    ];
    let ring = vec![
        send("180"),
        Action::Disarm(Timer::Trying),
        arm(Timer::Unanswered, 3600.0),
    ];
    let mut rows = vec![
        (
            Received,
            Input::Timer(Timer::Trying),
            Received,
            inform(Notice::TryingDue),
        ),
        (proceeding("100"), Request, proceeding("100"), resend("100")),
        (Confirmed, Input::Timer(Timer::I), Terminated, vec![]),
        (Accepted, Ack, Accepted, vec![Action::Pass]),
        (Accepted, Input::Success(bytes("200")), Accepted, vec![send("200")]),
        (Accepted, Input::Timer(Timer::L), Terminated, vec![]),
    ];
    for from in [Received, proceeding("100")] {
        rows.extend([
            (
                from.clone(),
                Input::Provisional(bytes("180")),
                proceeding("180"),
                ring.clone(),
            ),
            (from.clone(), Input::Success(bytes("200")), Accepted, accept.clone()),
            (
                from.clone(),
                Input::Failure(bytes("486")),
                completed(0.5),
                failed.clone(),
            ),
            (
                from,
                Input::Timer(Timer::Unanswered),
                Terminated,
                inform(Notice::Unanswered),
            ),
        ]);
    }
    for (from, next, interval) in [(0.5, 1.0, 1.0), (4.0, 4.0, 4.0)] {
        rows.extend([
            (completed(from), Request, completed(from), resend("486")),
            (
                completed(from),
                Input::Timer(Timer::G),
                completed(next),
                vec![Action::Resend(bytes("486")), arm(Timer::G, interval)],
            ),
            (completed(from), Ack, acknowledged.0.clone(), acknowledged.1.clone()),
            (
                completed(from),
                Input::Timer(Timer::H),
                Terminated,
                inform(Notice::AckMissing),
            ),
        ]);
    }
    for state in [Received, proceeding("100"), completed(0.5), completed(4.0), Accepted] {
        rows.push((state.clone(), TransportError, state, inform(Notice::TransportError)));
    }
    rows
}

#[test]
fn every_state_and_event_over_udp() {
    let failed = vec![
        Action::Send(bytes("486")),
        Action::Disarm(Timer::Trying),
        Action::Disarm(Timer::Unanswered),
        Action::Arm(Timer::G, seconds(0.5)),
        Action::Arm(Timer::H, seconds(32.0)),
    ];
    let acknowledged = vec![
        Action::Disarm(Timer::G),
        Action::Disarm(Timer::H),
        Action::Arm(Timer::I, seconds(5.0)),
    ];
    let rows = rows(failed, (Confirmed, acknowledged));
    check_table(Reliability::Unreliable, &states(), &inputs(), &rows, ServerInvite::step);
}

#[test]
fn every_state_and_event_over_tcp() {
    let failed = vec![
        Action::Send(bytes("486")),
        Action::Disarm(Timer::Trying),
        Action::Disarm(Timer::Unanswered),
        Action::Arm(Timer::H, seconds(32.0)),
    ];
    let rows = rows(failed, (Terminated, vec![]));
    check_table(Reliability::Reliable, &states(), &inputs(), &rows, ServerInvite::step);
}

#[test]
fn a_100_is_due_after_200_ms() {
    let timers = TimerConfig::default();
    let (state, actions) = ServerInvite::start(Context {
        timers: &timers,
        reliability: Reliability::Unreliable,
    });
    assert_eq!(state, Received);
    assert_eq!(
        actions.as_slice(),
        [
            Action::Arm(Timer::Trying, seconds(0.2)),
            Action::Arm(Timer::Unanswered, seconds(3600.0))
        ]
    );
}
