use super::*;
use crate::timer::TimerConfig;
use crate::transaction::tests::{Row, bytes, check_table, seconds};
use ClientInvite::{Accepted, CancelPending, Cancelling, Completed, Proceeding, Terminated};
use Input::{Cancel, Failure, Provisional, Success, TransportError, Trying};

fn calling(interval: f64) -> ClientInvite {
    ClientInvite::Calling {
        request: bytes("INVITE"),
        backoff: Backoff::uncapped(seconds(interval)),
    }
}

fn cancel_pending(interval: f64) -> ClientInvite {
    CancelPending {
        request: bytes("INVITE"),
        backoff: Backoff::uncapped(seconds(interval)),
    }
}

fn proceeding() -> ClientInvite {
    Proceeding {
        request: bytes("INVITE"),
    }
}

fn cancelling() -> ClientInvite {
    Cancelling {
        request: bytes("INVITE"),
    }
}

fn completed() -> ClientInvite {
    Completed { ack: bytes("ACK") }
}

fn failure() -> Input {
    Failure { ack: bytes("ACK") }
}

fn states() -> Vec<ClientInvite> {
    vec![
        calling(0.5),
        cancel_pending(0.5),
        proceeding(),
        cancelling(),
        completed(),
        Accepted,
        Terminated,
    ]
}

fn inputs() -> Vec<Input> {
    let mut inputs = vec![Trying, Provisional, Success, failure(), Cancel, TransportError];
    inputs.extend([Timer::A, Timer::B, Timer::C, Timer::D, Timer::M, Timer::Cancelled].map(Input::Timer));
    inputs
}

fn rows(failed: impl Fn(&[Timer]) -> (ClientInvite, Vec<Action>)) -> Vec<Row<ClientInvite, Input>> {
    let pass = || Action::Pass;
    let arm = |timer, after| Action::Arm(timer, seconds(after));
    let stop = Action::Disarm;
    let failed_from = |from: ClientInvite, running: &[Timer]| {
        let (to, actions) = failed(running);
        (from, failure(), to, actions)
    };
    let answered = || vec![pass(), stop(Timer::A), stop(Timer::B), arm(Timer::C, 181.0)];
    let cancelled = || {
        vec![
            pass(),
            stop(Timer::A),
            stop(Timer::B),
            Action::Inform(Notice::CancelDue),
            arm(Timer::Cancelled, 32.0),
        ]
    };
    vec![
        (calling(0.5), Trying, proceeding(), answered()),
        (calling(0.5), Provisional, proceeding(), answered()),
        (
            calling(0.5),
            Success,
            Accepted,
            vec![pass(), stop(Timer::A), stop(Timer::B), arm(Timer::M, 32.0)],
        ),
        failed_from(calling(0.5), &[Timer::A, Timer::B]),
        (calling(0.5), Cancel, cancel_pending(0.5), vec![]),
        (
            calling(0.5),
            Input::Timer(Timer::A),
            calling(1.0),
            vec![Action::Resend(bytes("INVITE")), arm(Timer::A, 1.0)],
        ),
        (
            calling(0.5),
            Input::Timer(Timer::B),
            Terminated,
            vec![Action::Inform(Notice::Timeout)],
        ),
        (
            calling(0.5),
            TransportError,
            Terminated,
            vec![Action::Inform(Notice::TransportError)],
        ),
        //
        (cancel_pending(0.5), Trying, cancelling(), cancelled()),
        (cancel_pending(0.5), Provisional, cancelling(), cancelled()),
        (
            cancel_pending(0.5),
            Success,
            Accepted,
            vec![pass(), stop(Timer::A), stop(Timer::B), arm(Timer::M, 32.0)],
        ),
        failed_from(cancel_pending(0.5), &[Timer::A, Timer::B]),
        (
            cancel_pending(0.5),
            Input::Timer(Timer::A),
            cancel_pending(1.0),
            vec![Action::Resend(bytes("INVITE")), arm(Timer::A, 1.0)],
        ),
        (
            cancel_pending(0.5),
            Input::Timer(Timer::B),
            Terminated,
            vec![Action::Inform(Notice::Timeout)],
        ),
        (
            cancel_pending(0.5),
            TransportError,
            Terminated,
            vec![Action::Inform(Notice::TransportError)],
        ),
        //
        (proceeding(), Trying, proceeding(), vec![pass()]),
        (
            proceeding(),
            Provisional,
            proceeding(),
            vec![pass(), arm(Timer::C, 181.0)],
        ),
        (
            proceeding(),
            Success,
            Accepted,
            vec![pass(), stop(Timer::C), arm(Timer::M, 32.0)],
        ),
        failed_from(proceeding(), &[Timer::C]),
        (
            proceeding(),
            Cancel,
            cancelling(),
            vec![stop(Timer::C), arm(Timer::Cancelled, 32.0)],
        ),
        (
            proceeding(),
            Input::Timer(Timer::C),
            cancelling(),
            vec![Action::Inform(Notice::TimerC), arm(Timer::Cancelled, 32.0)],
        ),
        //
        (cancelling(), Trying, cancelling(), vec![pass()]),
        (cancelling(), Provisional, cancelling(), vec![pass()]),
        (
            cancelling(),
            Success,
            Accepted,
            vec![pass(), stop(Timer::Cancelled), arm(Timer::M, 32.0)],
        ),
        failed_from(cancelling(), &[Timer::Cancelled]),
        (
            cancelling(),
            Input::Timer(Timer::Cancelled),
            Terminated,
            vec![Action::Inform(Notice::Timeout)],
        ),
        //
        (completed(), failure(), completed(), vec![Action::Resend(bytes("ACK"))]),
        (completed(), Input::Timer(Timer::D), Terminated, vec![]),
        (
            completed(),
            TransportError,
            Terminated,
            vec![Action::Inform(Notice::TransportError)],
        ),
        //
        (Accepted, Success, Accepted, vec![pass()]),
        (Accepted, Input::Timer(Timer::M), Terminated, vec![]),
    ]
}

#[test]
fn every_state_and_event_over_udp() {
    let failed = |running: &[Timer]| {
        let mut actions = vec![Action::Pass, Action::Send(bytes("ACK"))];
        actions.extend(running.iter().copied().map(Action::Disarm));
        actions.push(Action::Arm(Timer::D, seconds(32.0)));
        (completed(), actions)
    };
    check_table(
        Reliability::Unreliable,
        &states(),
        &inputs(),
        &rows(failed),
        ClientInvite::step,
    );
}

#[test]
fn every_state_and_event_over_tcp() {
    let failed = |_: &[Timer]| (Terminated, vec![Action::Pass, Action::Send(bytes("ACK"))]);
    check_table(
        Reliability::Reliable,
        &states(),
        &inputs(),
        &rows(failed),
        ClientInvite::step,
    );
}

#[test]
fn timer_a_runs_over_udp_only() {
    let timers = TimerConfig::default();
    let start = |reliability| {
        ClientInvite::start(
            bytes("INVITE"),
            Context {
                timers: &timers,
                reliability,
            },
        )
    };
    let (send, b) = (Action::Send(bytes("INVITE")), Action::Arm(Timer::B, seconds(32.0)));
    let (state, actions) = start(Reliability::Unreliable);
    assert_eq!(state, calling(0.5));
    assert_eq!(
        actions.as_slice(),
        [send.clone(), Action::Arm(Timer::A, seconds(0.5)), b.clone()]
    );
    let (state, actions) = start(Reliability::Reliable);
    assert_eq!(state, calling(0.5));
    assert_eq!(actions.as_slice(), [send, b]);
}
