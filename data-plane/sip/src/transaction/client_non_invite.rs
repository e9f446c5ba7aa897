//! Non-INVITE client transaction: RFC 3261 §17.1.2.
//!
//! ```text
//!             start: send request, arm E (UDP), F
//!                        |
//!                   +----v---+  E: resend, E doubles up to T2
//!        +----------| Trying |
//!        |          +--+--+--+
//!        | F /         |  | 1xx: pass
//!        | transport   |  v
//!        | error:      | +------------+  E: resend, E = T2
//!        | inform      | | Proceeding |  1xx: pass
//!        |<------------|-+-----+------+
//!        |    200-699: |       | 200-699: pass, arm K
//!        |  pass, arm K|       v
//!        |             | +-----------+
//!        |             +>| Completed |  responses: absorbed
//!        v               +-----+-----+
//!   Terminated <---------------+ K (at once on a reliable transport)
//! ```
//!
//! The timeout is told to the transaction user and never becomes a 408 on the wire (RFC 4320 §4.2).

use bytes::Bytes;

use super::action::{Action, Actions, Context, Notice, nothing, only};
use crate::timer::{Backoff, Reliability, Timer};

/// The state, with what is valid in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientNonInvite {
    /// The request is out, nothing came back.
    Trying { request: Bytes, backoff: Backoff },
    /// A provisional response came back; the request is still retransmitted, every T2.
    Proceeding { request: Bytes },
    /// The final response came back; its retransmissions are absorbed.
    Completed,
    /// To be destroyed at once.
    Terminated,
}

/// What can happen to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// 1xx.
    Provisional,
    /// 200-699.
    Final,
    /// A timer fired.
    Timer(Timer),
    /// The transport could not send.
    TransportError,
}

impl ClientNonInvite {
    /// Sends `request` for the first time.
    pub(super) fn start(request: Bytes, context: Context<'_>) -> (Self, Actions) {
        let backoff = Backoff::capped(context.timers.t1(), context.timers.t2());
        let mut actions = only(Action::Send(request.clone()));
        if context.reliability == Reliability::Unreliable {
            actions.push(Action::Arm(Timer::E, backoff.interval()));
        }
        actions.push(Action::Arm(Timer::F, context.timers.transaction_timeout()));
        (Self::Trying { request, backoff }, actions)
    }

    /// The transition of the diagram above.
    pub(super) fn step(self, input: Input, context: Context<'_>) -> (Self, Actions) {
        match (self, input) {
            (Self::Trying { request, .. } | Self::Proceeding { request }, Input::Provisional) => {
                (Self::Proceeding { request }, only(Action::Pass))
            }
            (Self::Trying { .. } | Self::Proceeding { .. }, Input::Final) => completed(context),
            (Self::Trying { request, backoff }, Input::Timer(Timer::E)) => {
                let backoff = backoff.next();
                let actions = [
                    Action::Resend(request.clone()),
                    Action::Arm(Timer::E, backoff.interval()),
                ];
                (Self::Trying { request, backoff }, Actions::from_iter(actions))
            }
            (Self::Proceeding { request }, Input::Timer(Timer::E)) => {
                let actions = [
                    Action::Resend(request.clone()),
                    Action::Arm(Timer::E, context.timers.t2()),
                ];
                (Self::Proceeding { request }, Actions::from_iter(actions))
            }
            (Self::Trying { .. } | Self::Proceeding { .. }, Input::Timer(Timer::F)) => {
                (Self::Terminated, only(Action::Inform(Notice::Timeout)))
            }
            (Self::Trying { .. } | Self::Proceeding { .. }, Input::TransportError) => {
                (Self::Terminated, only(Action::Inform(Notice::TransportError)))
            }
            (Self::Completed, Input::Timer(Timer::K)) => (Self::Terminated, nothing()),
            (state, _) => (state, nothing()),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

/// Pass the final response; timer K is zero on a reliable transport, so there is no Completed there.
fn completed(context: Context<'_>) -> (ClientNonInvite, Actions) {
    let mut actions = only(Action::Pass);
    match context.reliability {
        Reliability::Reliable => (ClientNonInvite::Terminated, actions),
        Reliability::Unreliable => {
            actions.extend([
                Action::Disarm(Timer::E),
                Action::Disarm(Timer::F),
                Action::Arm(Timer::K, context.timers.t4()),
            ]);
            (ClientNonInvite::Completed, actions)
        }
    }
}

#[cfg(test)]
mod tests;
