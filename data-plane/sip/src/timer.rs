//! The timers of RFC 3261 Table 4 (§ Appendix A) with the additions of RFC 6026, and the values they are made from.
//!
//! Nothing here reads a clock: a [`Timer`] is a name, a [`TimerConfig`] turns the name into a duration, and the
//! transaction layer turns the duration into a deadline with the `now` it was given.

use std::time::Duration;

use thiserror::Error;

/// Every timer a transaction can arm. The letters are those of RFC 3261 Table 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// INVITE request retransmit interval, UDP only; starts at T1 and doubles without a cap (RFC 3261 §17.1.1.2).
    A,
    /// INVITE transaction timeout, 64*T1 (RFC 3261 §17.1.1.2).
    B,
    /// Proxy INVITE transaction timeout, more than 3 minutes, restarted by 101–199 (RFC 3261 §16.6 item 11, §16.7 item 2).
    C,
    /// Wait time for response retransmits of an INVITE, over 32 s for UDP, 0 for TCP (RFC 3261 §17.1.1.2).
    D,
    /// Non-INVITE request retransmit interval, UDP only; starts at T1, doubles up to T2 (RFC 3261 §17.1.2.2).
    E,
    /// Non-INVITE transaction timeout, 64*T1 (RFC 3261 §17.1.2.2).
    F,
    /// INVITE response retransmit interval, UDP only; starts at T1, doubles up to T2 (RFC 3261 §17.2.1).
    G,
    /// Wait time for ACK receipt, 64*T1 (RFC 3261 §17.2.1).
    H,
    /// Wait time for ACK retransmits, T4 for UDP, 0 for TCP (RFC 3261 §17.2.1).
    I,
    /// Wait time for non-INVITE request retransmits, 64*T1 for UDP, 0 for TCP (RFC 3261 §17.2.2).
    J,
    /// Wait time for response retransmits of a non-INVITE, T4 for UDP, 0 for TCP (RFC 3261 §17.1.2.2).
    K,
    /// Wait time for accepted INVITE request retransmits, 64*T1 (RFC 6026 §7.1).
    L,
    /// Wait time for retransmission of 2xx to INVITE, or of 2xx from other branches of a downstream fork, 64*T1
    /// (RFC 6026 §7.2).
    M,
    /// A 100 (Trying) is due: 200 ms for INVITE (RFC 3261 §17.2.1), the time until the client's timer E has grown to T2
    /// for every other method (RFC 4320 §4.1).
    Trying,
    /// A cancelled INVITE that still has no final response is given up, 64*T1 after the CANCEL (RFC 3261 §9.1).
    Cancelled,
    /// The transaction user never answered a request. No RFC timer: the bound that lets the table be finite.
    /// Non-INVITE: 64*T1, after which the client has given up as well (RFC 4320 §4.2).
    Unanswered,
}

/// T1, T2 and T4 (RFC 3261 §17.1.1.1, §17.1.2.1) with the few values that do not follow from them.
///
/// ```
/// use std::time::Duration;
/// use trunkline_sip::timer::TimerConfig;
///
/// let timers = TimerConfig::default();
/// assert_eq!(timers.t1(), Duration::from_millis(500));
/// assert_eq!(timers.transaction_timeout(), Duration::from_secs(32));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerConfig {
    t1: Duration,
    t2: Duration,
    t4: Duration,
    timer_c: Duration,
    invite_unanswered: Duration,
}

/// A timer value that would make a transaction spin or outlive every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TimerConfigError {
    /// T1 lies outside 10 ms–10 s.
    #[error("T1 of {0:?} is outside 10 ms to 10 s")]
    T1(Duration),
    /// T2 is smaller than T1 or above 60 s.
    #[error("T2 of {0:?} is outside T1 to 60 s")]
    T2(Duration),
    /// T4 is zero or above 60 s.
    #[error("T4 of {0:?} is outside 1 ms to 60 s")]
    T4(Duration),
    /// Timer C is not above 3 minutes (RFC 3261 §16.6 item 11) or above 1 hour.
    #[error("timer C of {0:?} is outside 180 s (exclusive) to 3600 s")]
    TimerC(Duration),
}

impl Default for TimerConfig {
    /// RFC 3261 Table 4: T1 500 ms, T2 4 s, T4 5 s; timer C 181 s.
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_c: Duration::from_secs(181),
            invite_unanswered: INVITE_UNANSWERED,
        }
    }
}

/// How long a server INVITE transaction may stay without a response from the transaction user before it is dropped.
/// Serial forking may keep a caller waiting for several timers C in a row, so this is a backstop, not a call limit.
const INVITE_UNANSWERED: Duration = Duration::from_secs(3600);

impl TimerConfig {
    /// Timers from the three estimates: T1 in 10 ms–10 s, T2 in T1–60 s, T4 in 1 ms–60 s.
    pub fn new(t1: Duration, t2: Duration, t4: Duration) -> Result<Self, TimerConfigError> {
        let limit = Duration::from_secs(60);
        if t1 < Duration::from_millis(10) || t1 > Duration::from_secs(10) {
            return Err(TimerConfigError::T1(t1));
        }
        if t2 < t1 || t2 > limit {
            return Err(TimerConfigError::T2(t2));
        }
        if t4 < Duration::from_millis(1) || t4 > limit {
            return Err(TimerConfigError::T4(t4));
        }
        Ok(Self {
            t1,
            t2,
            t4,
            ..Self::default()
        })
    }

    /// The same timers with another timer C, above 180 s and up to 3600 s.
    pub fn with_timer_c(self, timer_c: Duration) -> Result<Self, TimerConfigError> {
        if timer_c <= Duration::from_secs(180) || timer_c > Duration::from_secs(3600) {
            return Err(TimerConfigError::TimerC(timer_c));
        }
        Ok(Self { timer_c, ..self })
    }

    /// T1, the round-trip estimate.
    #[must_use]
    pub fn t1(&self) -> Duration {
        self.t1
    }

    /// T2, the cap of the retransmit interval of non-INVITE requests and INVITE responses.
    #[must_use]
    pub fn t2(&self) -> Duration {
        self.t2
    }

    /// T4, how long the network may take to clear a message.
    #[must_use]
    pub fn t4(&self) -> Duration {
        self.t4
    }

    /// Timer C.
    #[must_use]
    pub fn timer_c(&self) -> Duration {
        self.timer_c
    }

    /// 64*T1: timers B, F, H, J, L, M and the wait after a CANCEL.
    #[must_use]
    pub fn transaction_timeout(&self) -> Duration {
        self.t1 * 64
    }

    /// Timer D for an unreliable transport: at least 32 s and never shorter than the peer's timer H.
    #[must_use]
    pub fn timer_d(&self) -> Duration {
        self.transaction_timeout().max(Duration::from_secs(32))
    }

    /// How long an INVITE waits for the transaction user before a 100 (Trying) is due (RFC 3261 §17.2.1).
    #[must_use]
    pub fn invite_trying(&self) -> Duration {
        Duration::from_millis(200)
    }

    /// How long a non-INVITE waits before a 100 (Trying) is due: the time a client's timer E needs to be reset to T2,
    /// which no 100 may precede on an unreliable transport (RFC 4320 §4.1). 3.5 s with the default values.
    #[must_use]
    pub fn non_invite_trying(&self) -> Duration {
        let mut elapsed = Duration::ZERO;
        let mut backoff = Backoff::capped(self.t1, self.t2);
        while backoff.interval() < self.t2 {
            elapsed += backoff.interval();
            backoff = backoff.next();
        }
        elapsed
    }

    /// How long a server INVITE transaction may wait for the transaction user: 1 hour.
    #[must_use]
    pub fn invite_unanswered(&self) -> Duration {
        self.invite_unanswered
    }
}

/// A retransmit interval that doubles on every use, with or without a cap: timers A, E and G, and the 2xx
/// retransmissions of a UAS core (RFC 3261 §13.3.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    interval: Duration,
    cap: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `cap` (timers E and G).
    #[must_use]
    pub fn capped(first: Duration, cap: Duration) -> Self {
        Self {
            interval: first.min(cap),
            cap,
        }
    }

    /// Starts at `first` and doubles for ever (timer A).
    #[must_use]
    pub fn uncapped(first: Duration) -> Self {
        Self {
            interval: first,
            cap: Duration::MAX,
        }
    }

    /// The interval to wait now.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.interval
    }

    /// The same series, one retransmission later.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            interval: self.interval.saturating_mul(2).min(self.cap),
            cap: self.cap,
        }
    }
}

/// Whether the transport below delivers by itself (TCP, TLS) or leaves it to the transaction (UDP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reliability {
    /// UDP: requests and responses are retransmitted, and remembered for the peer's retransmissions.
    Unreliable,
    /// TCP, TLS: nothing is retransmitted, and the wait states last zero seconds.
    Reliable,
}

impl Reliability {
    /// `duration` on an unreliable transport, zero on a reliable one: timers D, I, J and K.
    #[must_use]
    pub fn wait(self, duration: Duration) -> Duration {
        match self {
            Self::Unreliable => duration,
            Self::Reliable => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_table_4() {
        let timers = TimerConfig::default();
        assert_eq!(timers.t1(), Duration::from_millis(500));
        assert_eq!(timers.t2(), Duration::from_secs(4));
        assert_eq!(timers.t4(), Duration::from_secs(5));
        assert_eq!(timers.transaction_timeout(), Duration::from_secs(32));
        assert_eq!(timers.timer_d(), Duration::from_secs(32));
        assert!(timers.timer_c() > Duration::from_secs(180));
    }

    #[test]
    fn the_100_to_a_non_invite_waits_until_timer_e_is_t2() {
        assert_eq!(TimerConfig::default().non_invite_trying(), Duration::from_millis(3500));
    }

    #[test]
    fn timer_d_never_falls_below_32_seconds() {
        let fast = TimerConfig::new(
            Duration::from_millis(10),
            Duration::from_secs(1),
            Duration::from_secs(1),
        )
        .unwrap();
        assert_eq!(fast.transaction_timeout(), Duration::from_millis(640));
        assert_eq!(fast.timer_d(), Duration::from_secs(32));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let second = Duration::from_secs(1);
        assert_eq!(
            TimerConfig::new(Duration::ZERO, second, second),
            Err(TimerConfigError::T1(Duration::ZERO)),
            "a zero T1 would spin"
        );
        assert_eq!(
            TimerConfig::new(second, Duration::from_millis(999), second),
            Err(TimerConfigError::T2(Duration::from_millis(999)))
        );
        assert_eq!(
            TimerConfig::new(second, second, Duration::ZERO),
            Err(TimerConfigError::T4(Duration::ZERO))
        );
        let three_minutes = Duration::from_secs(180);
        assert_eq!(
            TimerConfig::default().with_timer_c(three_minutes),
            Err(TimerConfigError::TimerC(three_minutes)),
            "more than 3 minutes"
        );
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let series = |mut backoff: Backoff, n: usize| {
            let mut seconds = Vec::new();
            for _ in 0..n {
                seconds.push(backoff.interval().as_secs_f64());
                backoff = backoff.next();
            }
            seconds
        };
        let half = Duration::from_millis(500);
        assert_eq!(series(Backoff::uncapped(half), 6), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]);
        assert_eq!(
            series(Backoff::capped(half, Duration::from_secs(4)), 6),
            [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
        );
        assert_eq!(
            Backoff::uncapped(Duration::MAX).next().interval(),
            Duration::MAX,
            "saturates"
        );
    }
}
