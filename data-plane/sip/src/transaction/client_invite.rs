//! INVITE client transaction: RFC 3261 §17.1.1 as changed by RFC 6026 §7.2, with timer C of the proxy (RFC 3261 §16.8)
//! and the wait for a provisional response before a CANCEL (RFC 3261 §9.1).
//!
//! ```text
//!              start: send INVITE, arm A (UDP), B
//!                        |
//!   A: resend,      +----v----+  cancel   +---------------+
//!      A doubles <--| Calling |---------->| CancelPending |--> A: resend, A doubles
//!                   +--+-+-+--+           +---+-----+-----+
//!        B / transport | | | 1xx           1xx|     | B / transport: as Calling
//!        error: inform | | | pass, arm C      | pass, CANCEL is due,
//!      +---------------+ | |                  | arm Cancelled
//!      |      300-699    | v                  v
//!      |   +-----------+ | +------------+ cancel, C fires: inform   +------------+
//!      |   | pass, ACK | | | Proceeding |-------------------------->| Cancelling |
//!      |   | arm D     | | +-+-+--------+   arm Cancelled           +-+-+-+------+
//!      |   |           | |   | | 1xx: pass, 101-199 restart C         | | | Cancelled fires:
//!      |   |<----------+-+---+ |                                      | | | inform
//!      |   |<----------------- | -----------------300-699-------------+ | |
//!      |   v             | 2xx | 2xx                            2xx     | |
//!      | +-----------+   | pass, arm M                                  | |
//!      | | Completed |   +-----+---------> +----------+ <---------------+ |
//!      | +--+--------+                     | Accepted | 2xx: pass         |
//!      |    | 300-699: resend ACK          +----+-----+                   |
//!      |    | D / transport error               | M                       |
//!      v    v                                   v                         v
//!    +----------------------------- Terminated --------------------------------+
//! ```
//!
//! A 2xx in Completed and a 300-699 in Accepted are dropped: the diagrams have no such arrow, the peer that sent the
//! second final response ends by its own timers.

use bytes::Bytes;

use super::action::{Action, Actions, Context, Notice, nothing, only};
use crate::timer::{Backoff, Reliability, Timer};

/// The state, with what is valid in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientInvite {
    /// The INVITE is out, nothing came back.
    Calling { request: Bytes, backoff: Backoff },
    /// As `Calling`; the transaction user wants to cancel, and no CANCEL may be sent before a provisional response.
    CancelPending { request: Bytes, backoff: Backoff },
    /// A provisional response came back; the request is kept to build ACK and CANCEL.
    Proceeding { request: Bytes },
    /// A CANCEL was sent or is due; the INVITE still waits for its final response.
    Cancelling { request: Bytes },
    /// A 300-699 came back and was acknowledged.
    Completed { ack: Bytes },
    /// A 2xx came back; more of them are passed up (RFC 6026 §7.2).
    Accepted,
    /// To be destroyed at once.
    Terminated,
}

/// What can happen to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// 100.
    Trying,
    /// 101-199.
    Provisional,
    /// 2xx.
    Success,
    /// 300-699, with the ACK for it (RFC 3261 §17.1.1.3).
    Failure { ack: Bytes },
    /// The transaction user wants the INVITE cancelled.
    Cancel,
    /// A timer fired.
    Timer(Timer),
    /// The transport could not send.
    TransportError,
}

impl ClientInvite {
    /// Sends `request` for the first time.
    pub(super) fn start(request: Bytes, context: Context<'_>) -> (Self, Actions) {
        let backoff = Backoff::uncapped(context.timers.t1());
        let mut actions = only(Action::Send(request.clone()));
        if context.reliability == Reliability::Unreliable {
            actions.push(Action::Arm(Timer::A, backoff.interval()));
        }
        actions.push(Action::Arm(Timer::B, context.timers.transaction_timeout()));
        (Self::Calling { request, backoff }, actions)
    }

    /// The transition of the diagram above.
    pub(super) fn step(self, input: Input, context: Context<'_>) -> (Self, Actions) {
        match (self, input) {
            (Self::Calling { request, backoff }, input) => Self::unanswered(request, backoff, false, input, context),
            (Self::CancelPending { request, backoff }, input) => {
                Self::unanswered(request, backoff, true, input, context)
            }

            (Self::Proceeding { request }, Input::Trying) => (Self::Proceeding { request }, only(Action::Pass)),
            (Self::Proceeding { request }, Input::Provisional) => {
                let restart = Action::Arm(Timer::C, context.timers.timer_c());
                (
                    Self::Proceeding { request },
                    Actions::from_iter([Action::Pass, restart]),
                )
            }
            (Self::Proceeding { .. }, Input::Success) => accepted(&[Timer::C], context),
            (Self::Proceeding { .. }, Input::Failure { ack }) => completed(ack, &[Timer::C], context),
            (Self::Proceeding { request }, Input::Cancel) => (
                Self::Cancelling { request },
                Actions::from_iter([Action::Disarm(Timer::C), cancelled(context)]),
            ),
            (Self::Proceeding { request }, Input::Timer(Timer::C)) => (
                Self::Cancelling { request },
                Actions::from_iter([Action::Inform(Notice::TimerC), cancelled(context)]),
            ),

            (Self::Cancelling { request }, Input::Trying | Input::Provisional) => {
                (Self::Cancelling { request }, only(Action::Pass))
            }
            (Self::Cancelling { .. }, Input::Success) => accepted(&[Timer::Cancelled], context),
            (Self::Cancelling { .. }, Input::Failure { ack }) => completed(ack, &[Timer::Cancelled], context),
            (Self::Cancelling { .. }, Input::Timer(Timer::Cancelled)) => {
                (Self::Terminated, only(Action::Inform(Notice::Timeout)))
            }

            (Self::Completed { ack }, Input::Failure { .. }) => {
                let resend = only(Action::Resend(ack.clone()));
                (Self::Completed { ack }, resend)
            }
            (Self::Completed { .. }, Input::Timer(Timer::D)) => (Self::Terminated, nothing()),
            (Self::Completed { .. }, Input::TransportError) => {
                (Self::Terminated, only(Action::Inform(Notice::TransportError)))
            }

            (Self::Accepted, Input::Success) => (Self::Accepted, only(Action::Pass)),
            (Self::Accepted, Input::Timer(Timer::M)) => (Self::Terminated, nothing()),

            (
                state @ (Self::Proceeding { .. }
                | Self::Cancelling { .. }
                | Self::Completed { .. }
                | Self::Accepted
                | Self::Terminated),
                _,
            ) => (state, nothing()),
        }
    }

    /// Calling and CancelPending differ only in what a provisional response leads to.
    fn unanswered(
        request: Bytes,
        backoff: Backoff,
        cancel: bool,
        input: Input,
        context: Context<'_>,
    ) -> (Self, Actions) {
        let stay = |request, backoff, cancel| {
            if cancel {
                Self::CancelPending { request, backoff }
            } else {
                Self::Calling { request, backoff }
            }
        };
        match input {
            Input::Trying | Input::Provisional => {
                let stop = [Action::Disarm(Timer::A), Action::Disarm(Timer::B)];
                let mut actions = only(Action::Pass);
                actions.extend(stop);
                if cancel {
                    actions.extend([Action::Inform(Notice::CancelDue), cancelled(context)]);
                    (Self::Cancelling { request }, actions)
                } else {
                    actions.push(Action::Arm(Timer::C, context.timers.timer_c()));
                    (Self::Proceeding { request }, actions)
                }
            }
            Input::Success => accepted(&[Timer::A, Timer::B], context),
            Input::Failure { ack } => completed(ack, &[Timer::A, Timer::B], context),
            Input::Cancel => (stay(request, backoff, true), nothing()),
            Input::Timer(Timer::A) => {
                let backoff = backoff.next();
                let actions = [
                    Action::Resend(request.clone()),
                    Action::Arm(Timer::A, backoff.interval()),
                ];
                (stay(request, backoff, cancel), Actions::from_iter(actions))
            }
            Input::Timer(Timer::B) => (Self::Terminated, only(Action::Inform(Notice::Timeout))),
            Input::TransportError => (Self::Terminated, only(Action::Inform(Notice::TransportError))),
            Input::Timer(_) => (stay(request, backoff, cancel), nothing()),
        }
    }

    /// The INVITE as sent, while a CANCEL or an ACK may still have to be built from it.
    pub(super) fn request(&self) -> Option<&Bytes> {
        match self {
            Self::Calling { request, .. }
            | Self::CancelPending { request, .. }
            | Self::Proceeding { request }
            | Self::Cancelling { request } => Some(request),
            Self::Completed { .. } | Self::Accepted | Self::Terminated => None,
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

/// RFC 6026 §7.2: pass the 2xx and wait for more of them, on every transport.
fn accepted(running: &[Timer], context: Context<'_>) -> (ClientInvite, Actions) {
    let mut actions = only(Action::Pass);
    actions.extend(running.iter().copied().map(Action::Disarm));
    actions.push(Action::Arm(Timer::M, context.timers.transaction_timeout()));
    (ClientInvite::Accepted, actions)
}

/// RFC 3261 §17.1.1.2: pass the failure, acknowledge it, and wait for its retransmissions where there can be any.
fn completed(ack: Bytes, running: &[Timer], context: Context<'_>) -> (ClientInvite, Actions) {
    let mut actions = Actions::from_iter([Action::Pass, Action::Send(ack.clone())]);
    match context.reliability {
        Reliability::Reliable => (ClientInvite::Terminated, actions),
        Reliability::Unreliable => {
            actions.extend(running.iter().copied().map(Action::Disarm));
            actions.push(Action::Arm(Timer::D, context.timers.timer_d()));
            (ClientInvite::Completed { ack }, actions)
        }
    }
}

fn cancelled(context: Context<'_>) -> Action {
    Action::Arm(Timer::Cancelled, context.timers.transaction_timeout())
}

#[cfg(test)]
mod tests;
