//! What a machine asks of the layer, as data.

use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::timer::{Reliability, Timer, TimerConfig};

/// What every transition may read besides its state and its input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) timers: &'a TimerConfig,
    pub(super) reliability: Reliability,
}

/// One effect of a transition. The order within a transition is the order of the effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Hand these bytes to the transport.
    Send(Bytes),
    /// Hand these bytes to the transport once more: a copy of what was sent before.
    Resend(Bytes),
    /// (Re)start a timer.
    Arm(Timer, Duration),
    /// Stop a timer; no effect when it does not run.
    Disarm(Timer),
    /// The message that was put in belongs to the transaction user.
    Pass,
    /// Tell the transaction user something no message says.
    Inform(Notice),
}

/// What the transaction user learns without a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Timer B, F or the wait after a CANCEL ran out.
    Timeout,
    /// Timer C ran out.
    TimerC,
    /// A CANCEL that had to wait for a provisional response may go now.
    CancelDue,
    /// A 100 (Trying) is due.
    TryingDue,
    /// Timer H ran out.
    AckMissing,
    /// The transaction user did not answer in time.
    Unanswered,
    /// The transport failed.
    TransportError,
}

/// The effects of one transition; four cover every row of the four tables.
pub(super) type Actions = SmallVec<[Action; 4]>;

/// No effect.
pub(super) fn nothing() -> Actions {
    Actions::new()
}

/// Exactly one effect.
pub(super) fn only(action: Action) -> Actions {
    let mut actions = Actions::new();
    actions.push(action);
    actions
}
