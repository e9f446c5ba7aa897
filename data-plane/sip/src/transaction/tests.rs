//! The layer as a whole; each machine has its table beside it.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::action::{Action, Actions, Context};
use crate::timer::{Reliability, TimerConfig};

mod layer;
mod properties;
mod simulation;

/// Some instant to count from; tests add to it and never look at the clock again.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can only be made by the clock; only differences matter"
)]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub(super) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// One line of a transition table.
pub(super) type Row<S, I> = (S, I, S, Vec<Action>);

/// Checks every pair of state and input: those in `rows` do what the row says, all others change nothing and do nothing.
pub(super) fn check_table<S, I>(
    reliability: Reliability,
    states: &[S],
    inputs: &[I],
    rows: &[Row<S, I>],
    step: impl Fn(S, I, Context<'_>) -> (S, Actions),
) where
    S: Clone + PartialEq + Debug,
    I: Clone + PartialEq + Debug,
{
    let timers = TimerConfig::default();
    let context = Context {
        timers: &timers,
        reliability,
    };
    let mut used = 0;
    for state in states {
        for input in inputs {
            let row = rows.iter().find(|(from, event, _, _)| from == state && event == input);
            let (expected, actions) = match row {
                Some((_, _, to, actions)) => (to.clone(), actions.clone()),
                None => (state.clone(), Vec::new()),
            };
            used += usize::from(row.is_some());
            let (next, done) = step(state.clone(), input.clone(), context);
            assert_eq!(next, expected, "{state:?} on {input:?} ({reliability:?})");
            assert_eq!(
                done.as_slice(),
                actions.as_slice(),
                "{state:?} on {input:?} ({reliability:?})"
            );
        }
    }
    assert_eq!(
        used,
        rows.len(),
        "a row names a state or an input that is not listed, or appears twice"
    );
}
