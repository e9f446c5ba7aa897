//! INVITE server transaction: RFC 3261 §17.2.1 as changed by RFC 6026 §7.1.
//!
//! ```text
//!            INVITE: pass (by creation), arm Trying, Unanswered
//!                        |
//!   INVITE: absorbed +---v------+  Trying fires: a 100 is due
//!                    | Received |
//!                    +--+-+--+--+
//!         1xx: send     |     |  |    Received is Proceeding before the first response:
//!                       v     |  |    nothing to repeat yet
//!   INVITE:      +------------+  |
//!     resend <---| Proceeding |  |    1xx: send; transport error: inform; Unanswered: inform, terminate
//!                +--+------+--+  |
//!   300-699: send,  |      |     |
//!   arm G (UDP), H  |      | 2xx: send, arm L
//!                   v      v
//!     +-----------+      +----------+
//!     | Completed |      | Accepted |  INVITE: absorbed; ACK: pass; 2xx: send; transport error: inform
//!     +-+---+-----+      +----+-----+
//!       |   | ACK: arm I      | L
//!       |   v                 |
//!       | +-----------+       |
//!       | | Confirmed |       |         ACK, INVITE: absorbed
//!       | +-----+-----+       |
//!     H:|       | I           |         Completed: INVITE: resend; G: resend, G doubles up to T2;
//! inform|       |             |                    transport error: inform
//!       v       v             v
//!     +--------- Terminated ---------+
//! ```

use bytes::Bytes;

use super::action::{Action, Actions, Context, Notice, nothing, only};
use crate::timer::{Backoff, Reliability, Timer};

/// The state, with what is valid in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerInvite {
    /// Proceeding without a response yet.
    Received,
    /// The most recent provisional response answers retransmissions.
    Proceeding { provisional: Bytes },
    /// A 300-699 was sent and waits for its ACK.
    Completed { response: Bytes, backoff: Backoff },
    /// The ACK came; its retransmissions are absorbed.
    Confirmed,
    /// A 2xx was sent; the transaction user owns its retransmission and its ACK.
    Accepted,
    /// To be destroyed at once.
    Terminated,
}

/// What can happen to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// The INVITE again.
    Request,
    /// An ACK on the same branch.
    Ack,
    /// The transaction user sends 1xx.
    Provisional(Bytes),
    /// The transaction user sends 2xx.
    Success(Bytes),
    /// The transaction user sends 300-699.
    Failure(Bytes),
    /// A timer fired.
    Timer(Timer),
    /// The transport could not send.
    TransportError,
}

impl ServerInvite {
    /// The INVITE has arrived.
    pub(super) fn start(context: Context<'_>) -> (Self, Actions) {
        let actions = [
            Action::Arm(Timer::Trying, context.timers.invite_trying()),
            Action::Arm(Timer::Unanswered, context.timers.invite_unanswered()),
        ];
        (Self::Received, Actions::from_iter(actions))
    }

    /// The transition of the diagram above.
    pub(super) fn step(self, input: Input, context: Context<'_>) -> (Self, Actions) {
        match (self, input) {
            (Self::Received, Input::Timer(Timer::Trying)) => (Self::Received, only(Action::Inform(Notice::TryingDue))),
            (Self::Received | Self::Proceeding { .. }, Input::Provisional(provisional)) => {
                let actions = [
                    Action::Send(provisional.clone()),
                    Action::Disarm(Timer::Trying),
                    Action::Arm(Timer::Unanswered, context.timers.invite_unanswered()),
                ];
                (Self::Proceeding { provisional }, Actions::from_iter(actions))
            }
            (Self::Received | Self::Proceeding { .. }, Input::Success(response)) => {
                let actions = [
                    Action::Send(response),
                    Action::Disarm(Timer::Trying),
                    Action::Disarm(Timer::Unanswered),
                    Action::Arm(Timer::L, context.timers.transaction_timeout()),
                ];
                (Self::Accepted, Actions::from_iter(actions))
            }
            (Self::Received | Self::Proceeding { .. }, Input::Failure(response)) => completed(response, context),
            (Self::Received | Self::Proceeding { .. }, Input::Timer(Timer::Unanswered)) => {
                (Self::Terminated, only(Action::Inform(Notice::Unanswered)))
            }
            (Self::Proceeding { provisional }, Input::Request) => {
                let resend = only(Action::Resend(provisional.clone()));
                (Self::Proceeding { provisional }, resend)
            }

            (Self::Completed { response, backoff }, Input::Request) => {
                let resend = only(Action::Resend(response.clone()));
                (Self::Completed { response, backoff }, resend)
            }
            (Self::Completed { response, backoff }, Input::Timer(Timer::G)) => {
                let backoff = backoff.next();
                let actions = [
                    Action::Resend(response.clone()),
                    Action::Arm(Timer::G, backoff.interval()),
                ];
                (Self::Completed { response, backoff }, Actions::from_iter(actions))
            }
            (Self::Completed { .. }, Input::Ack) => confirmed(context),
            (Self::Completed { .. }, Input::Timer(Timer::H)) => {
                (Self::Terminated, only(Action::Inform(Notice::AckMissing)))
            }

            (Self::Confirmed, Input::Timer(Timer::I)) => (Self::Terminated, nothing()),

            (Self::Accepted, Input::Ack) => (Self::Accepted, only(Action::Pass)),
            (Self::Accepted, Input::Success(response)) => (Self::Accepted, only(Action::Send(response))),
            (Self::Accepted, Input::Timer(Timer::L)) => (Self::Terminated, nothing()),

            // RFC 6026 §7.1: a transport error is told, and the state is kept; another path may work for the next send.
            (
                state @ (Self::Received | Self::Proceeding { .. } | Self::Completed { .. } | Self::Accepted),
                Input::TransportError,
            ) => (state, only(Action::Inform(Notice::TransportError))),

            (state, _) => (state, nothing()),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

/// RFC 3261 §17.2.1: timer H runs on every transport, timer G only where the response can be lost.
fn completed(response: Bytes, context: Context<'_>) -> (ServerInvite, Actions) {
    let backoff = Backoff::capped(context.timers.t1(), context.timers.t2());
    let mut actions = Actions::from_iter([
        Action::Send(response.clone()),
        Action::Disarm(Timer::Trying),
        Action::Disarm(Timer::Unanswered),
    ]);
    if context.reliability == Reliability::Unreliable {
        actions.push(Action::Arm(Timer::G, backoff.interval()));
    }
    actions.push(Action::Arm(Timer::H, context.timers.transaction_timeout()));
    (ServerInvite::Completed { response, backoff }, actions)
}

/// Timer I is zero on a reliable transport, so there is no Confirmed there.
fn confirmed(context: Context<'_>) -> (ServerInvite, Actions) {
    match context.reliability {
        Reliability::Reliable => (ServerInvite::Terminated, nothing()),
        Reliability::Unreliable => {
            let actions = [
                Action::Disarm(Timer::G),
                Action::Disarm(Timer::H),
                Action::Arm(Timer::I, context.timers.t4()),
            ];
            (ServerInvite::Confirmed, Actions::from_iter(actions))
        }
    }
}

#[cfg(test)]
mod tests;
