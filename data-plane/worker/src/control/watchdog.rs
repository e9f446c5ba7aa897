//! Notices a configuration stream that is open and dead: the failure in which a client trusts its copy for ever.
//!
//! Two signs: nothing at all for three heartbeats, or heartbeats that speak of a newer revision three times while no push
//! brings it. Either way the remedy is a new stream. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// How many heartbeats may be missed, and how many may be ahead of us.
pub const PATIENCE: u32 = 3;

/// Why a stream is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Nothing was heard for [`PATIENCE`] heartbeats.
    Silent,
    /// The control plane has been ahead for [`PATIENCE`] heartbeats without a push.
    Behind,
}

/// Watches one stream.
#[derive(Debug, Clone)]
pub struct Watchdog {
    silence: Duration,
    last_heard: Instant,
    ahead: u32,
}

impl Watchdog {
    /// For a stream opened at `now`, with a heartbeat every `heartbeat`.
    pub fn new(heartbeat: Duration, now: Instant) -> Self {
        Self {
            silence: heartbeat * PATIENCE,
            last_heard: now,
            ahead: 0,
        }
    }

    /// A push arrived.
    pub fn handle_push(&mut self, now: Instant) {
        self.last_heard = now;
        self.ahead = 0;
    }

    /// A heartbeat arrived that speaks of revision `theirs` while `ours` is in force.
    pub fn handle_heartbeat(&mut self, theirs: i64, ours: i64, now: Instant) {
        self.last_heard = now;
        self.ahead = if theirs > ours { self.ahead + 1 } else { 0 };
    }

    /// Anything else arrived.
    pub fn handle_heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// When silence becomes a stall.
    pub fn deadline(&self) -> Instant {
        self.last_heard + self.silence
    }

    /// Whether the stream is to be given up.
    pub fn stall(&self, now: Instant) -> Option<Stall> {
        if self.ahead >= PATIENCE {
            Some(Stall::Behind)
        } else if now >= self.deadline() {
            Some(Stall::Silent)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(5);

    #[test]
    fn silence_is_a_stall_after_three_heartbeats() {
        let start = Instant::now();
        let mut dog = Watchdog::new(HEARTBEAT, start);
        assert_eq!(dog.stall(start + 3 * HEARTBEAT - Duration::from_nanos(1)), None);
        assert_eq!(dog.stall(start + 3 * HEARTBEAT), Some(Stall::Silent));
        dog.handle_heard(start + 2 * HEARTBEAT);
        assert_eq!(dog.stall(start + 4 * HEARTBEAT), None);
        assert_eq!(dog.deadline(), start + 5 * HEARTBEAT);
    }

    #[test]
    fn heartbeats_ahead_of_us_without_a_push_are_a_stall() {
        let start = Instant::now();
        let mut dog = Watchdog::new(HEARTBEAT, start);
        for beat in 1..=2 {
            dog.handle_heartbeat(8, 7, start + beat * HEARTBEAT);
            assert_eq!(dog.stall(start + beat * HEARTBEAT), None);
        }
        dog.handle_push(start + 2 * HEARTBEAT);
        for beat in 3..=4 {
            dog.handle_heartbeat(9, 7, start + beat * HEARTBEAT);
        }
        assert_eq!(dog.stall(start + 4 * HEARTBEAT), None, "a push began the count anew");
        dog.handle_heartbeat(9, 7, start + 5 * HEARTBEAT);
        assert_eq!(dog.stall(start + 5 * HEARTBEAT), Some(Stall::Behind));
    }

    #[test]
    fn being_in_step_or_ahead_is_no_stall() {
        let start = Instant::now();
        let mut dog = Watchdog::new(HEARTBEAT, start);
        for (beat, theirs) in (1..).zip([8, 8, 7, 8, 8, 6]) {
            dog.handle_heartbeat(theirs, 7, start + beat * HEARTBEAT);
            assert_eq!(dog.stall(start + beat * HEARTBEAT), None);
        }
    }
}
