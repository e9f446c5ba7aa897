//! Non-INVITE server transaction: RFC 3261 §17.2.2 with the 100 (Trying) rules of RFC 4320 §4.1.
//!
//! ```text
//!          request: pass (by creation), arm Trying (3.5 s), Unanswered (64*T1)
//!                        |
//!                   +----v---+  request: absorbed
//!        +----------| Trying |  Trying fires: a 100 is due
//!        |          +--+--+--+
//!        |             |  | 100 from TU: send
//!        | Unanswered: |  v
//!        | inform      | +------------+  request: resend the 100
//!        |<------------|-| Proceeding |  100 from TU: send
//!        | transport   | +-----+------+
//!        | error:      |       |
//!        | inform      |       | 200-699 from TU: send, arm J
//!        |             |       v
//!        |             | +-----------+  request: resend the response
//!        |             +>| Completed |  other responses from TU: refused
//!        v               +-----+-----+
//!   Terminated <---------------+ J (at once on a reliable transport); transport error: inform
//! ```

use bytes::Bytes;

use super::action::{Action, Actions, Context, Notice, nothing, only};
use crate::timer::{Reliability, Timer};

/// The state, with what is valid in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerNonInvite {
    /// No response yet. Before `hundred_due` no 100 may be sent on an unreliable transport (RFC 4320 §4.1).
    Trying { hundred_due: bool },
    /// A 100 was sent and answers retransmissions.
    Proceeding { provisional: Bytes },
    /// The final response was sent and answers retransmissions.
    Completed { response: Bytes },
    /// To be destroyed at once.
    Terminated,
}

/// What can happen to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// The request again.
    Request,
    /// The transaction user sends 100.
    Provisional(Bytes),
    /// The transaction user sends 200-699.
    Final(Bytes),
    /// A timer fired.
    Timer(Timer),
    /// The transport could not send.
    TransportError,
}

impl ServerNonInvite {
    /// The request has arrived.
    pub(super) fn start(context: Context<'_>) -> (Self, Actions) {
        let actions = [
            Action::Arm(Timer::Trying, context.timers.non_invite_trying()),
            Action::Arm(Timer::Unanswered, context.timers.transaction_timeout()),
        ];
        (
            Self::Trying {
                hundred_due: context.reliability == Reliability::Reliable,
            },
            Actions::from_iter(actions),
        )
    }

    /// The transition of the diagram above.
    pub(super) fn step(self, input: Input, context: Context<'_>) -> (Self, Actions) {
        match (self, input) {
            (Self::Trying { .. }, Input::Timer(Timer::Trying)) => (
                Self::Trying { hundred_due: true },
                only(Action::Inform(Notice::TryingDue)),
            ),
            (Self::Trying { hundred_due: true } | Self::Proceeding { .. }, Input::Provisional(provisional)) => {
                let actions = [Action::Send(provisional.clone()), Action::Disarm(Timer::Trying)];
                (Self::Proceeding { provisional }, Actions::from_iter(actions))
            }
            (Self::Trying { .. } | Self::Proceeding { .. }, Input::Final(response)) => completed(response, context),
            (Self::Trying { .. } | Self::Proceeding { .. }, Input::Timer(Timer::Unanswered)) => {
                (Self::Terminated, only(Action::Inform(Notice::Unanswered)))
            }
            (Self::Proceeding { provisional }, Input::Request) => {
                let resend = only(Action::Resend(provisional.clone()));
                (Self::Proceeding { provisional }, resend)
            }
            (Self::Completed { response }, Input::Request) => {
                let resend = only(Action::Resend(response.clone()));
                (Self::Completed { response }, resend)
            }
            (Self::Completed { .. }, Input::Timer(Timer::J)) => (Self::Terminated, nothing()),
            (Self::Trying { .. } | Self::Proceeding { .. } | Self::Completed { .. }, Input::TransportError) => {
                (Self::Terminated, only(Action::Inform(Notice::TransportError)))
            }
            (state, _) => (state, nothing()),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

/// Timer J is zero on a reliable transport, so there is no Completed there.
fn completed(response: Bytes, context: Context<'_>) -> (ServerNonInvite, Actions) {
    let mut actions = only(Action::Send(response.clone()));
    match context.reliability {
        Reliability::Reliable => (ServerNonInvite::Terminated, actions),
        Reliability::Unreliable => {
            actions.extend([
                Action::Disarm(Timer::Trying),
                Action::Disarm(Timer::Unanswered),
                Action::Arm(Timer::J, context.timers.transaction_timeout()),
            ]);
            (ServerNonInvite::Completed { response }, actions)
        }
    }
}

#[cfg(test)]
mod tests;
