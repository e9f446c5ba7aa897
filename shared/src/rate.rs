//! Rates such as `40/5s` and the token bucket that enforces them, both exact in integers.
//!
//! ```text
//! rate   = amount "/" [count] unit      ; "40/5s" "3.5/2m" "2.5/1h"
//! amount = 1*DIGIT ["." 1*DIGIT]        ; > 0, at most 1e6, at most 9 decimals
//! count  = 1*DIGIT                      ; at least 1, default 1
//! unit   = "s" / "m" / "h"              ; the period is at most 24 h
//! ```
//! A bare amount is per second.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NANOTOKENS: u64 = 1_000_000_000;
const MAX_AMOUNT: u64 = 1_000_000;
const MAX_PERIOD_SECONDS: u64 = 24 * 3600;

/// Why a text is no rate. Positions are byte offsets into the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Something else than the grammar wants at this place.
    #[error("expected {expected} at position {position}")]
    Syntax {
        /// What the grammar wants there.
        expected: &'static str,
        /// Where.
        position: usize,
    },
    /// Nothing would ever be allowed.
    #[error("the amount must be greater than 0")]
    Zero,
    /// More than 1e6.
    #[error("the amount must not be greater than 1000000")]
    TooMuch,
    /// More digits after the point than can be kept exactly.
    #[error("the amount has more than 9 decimals")]
    TooFine,
    /// A count of 0 or a period over 24 h.
    #[error("the period must be between 1 s and 24 h")]
    Period,
}

/// An average number of events per period. Equality is of meaning: `40/5s` equals `40.0/5s`; the text is kept as given.
#[derive(Clone)]
pub struct Rate {
    nanotokens: u64,
    period: Duration,
    text: Arc<str>,
}

impl Rate {
    /// Events per period, in billionths: exact.
    pub const fn nanotokens(&self) -> u64 {
        self.nanotokens
    }

    /// The period, 1 s-24 h, whole seconds.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// The text it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.nanotokens == other.nanotokens && self.period == other.period
    }
}

impl Eq for Rate {}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rate({})", self.text)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (amount, period) = match text.split_once('/') {
            Some((amount, _)) => (amount, parse_period(text, amount.len() + 1)?),
            None => (text, 1),
        };
        Ok(Self {
            nanotokens: parse_amount(amount)?,
            period: Duration::from_secs(period),
            text: text.into(),
        })
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn parse_amount(amount: &str) -> Result<u64, RateError> {
    let whole_len = digits(amount);
    if whole_len == 0 {
        return Err(RateError::Syntax {
            expected: "a digit",
            position: 0,
        });
    }
    let (whole, rest) = amount.split_at(whole_len);
    let fraction = match rest.strip_prefix('.') {
        Some(fraction) => {
            let len = digits(fraction);
            if len == 0 || len != fraction.len() {
                return Err(RateError::Syntax {
                    expected: "a digit",
                    position: whole_len + 1 + len,
                });
            }
            fraction.trim_end_matches('0')
        }
        None if rest.is_empty() => "",
        None => {
            return Err(RateError::Syntax {
                expected: "`.`, `/` or a digit",
                position: whole_len,
            });
        }
    };
    if fraction.len() > 9 {
        return Err(RateError::TooFine);
    }
    let whole: u64 = whole.parse().map_err(|_| RateError::TooMuch)?;
    if whole > MAX_AMOUNT {
        return Err(RateError::TooMuch);
    }
    let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| RateError::TooFine)?;
    match whole * NANOTOKENS + fraction {
        0 => Err(RateError::Zero),
        nanotokens if nanotokens > MAX_AMOUNT * NANOTOKENS => Err(RateError::TooMuch),
        nanotokens => Ok(nanotokens),
    }
}

/// Seconds of the period that starts at byte `start` of `text`.
fn parse_period(text: &str, start: usize) -> Result<u64, RateError> {
    let period = &text[start..];
    let (count, unit) = period.split_at(digits(period));
    let at = start + count.len();
    let seconds = match unit.as_bytes().first() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        _ => {
            return Err(RateError::Syntax {
                expected: "`s`, `m` or `h`",
                position: at,
            });
        }
    };
    if unit.len() > 1 {
        return Err(RateError::Syntax {
            expected: "the end",
            position: at + 1,
        });
    }
    let count: u64 = if count.is_empty() {
        1
    } else {
        count.parse().map_err(|_| RateError::Period)?
    };
    match count.checked_mul(seconds) {
        Some(total @ 1..=MAX_PERIOD_SECONDS) => Ok(total),
        _ => Err(RateError::Period),
    }
}

/// No token now; the next one is due after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate exceeded, next token in {} ms", .0.as_millis())]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// Whole seconds, rounded up, at least 1: the value of a Retry-After header (RFC 3261 §20.33).
    pub const fn seconds(self) -> u64 {
        let seconds = self.0.as_secs() + (self.0.subsec_nanos() > 0) as u64;
        if seconds == 0 { 1 } else { seconds }
    }
}

/// A token bucket: refilled at the rate, at most `max(1, amount)` tokens, full at the start.
///
/// The level is kept in nanotokens times the period in nanoseconds, so that a refill of any length is a whole number and
/// nothing is ever rounded: a bucket of `3.5/2m` gives 3.5 million tokens in two million minutes.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Added per elapsed nanosecond.
    refill: u128,
    /// Price of one token.
    token: u128,
    capacity: u128,
    level: u128,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: &Rate, now: Instant) -> Self {
        let period = rate.period.as_nanos();
        let token = u128::from(NANOTOKENS) * period;
        let capacity = u128::from(rate.nanotokens.max(NANOTOKENS)) * period;
        Self {
            refill: u128::from(rate.nanotokens),
            token,
            capacity,
            level: capacity,
            filled_at: now,
        }
    }

    /// Takes a token, or says when the next one is due. A `now` before an earlier one counts as that earlier one.
    pub fn try_take(&mut self, now: Instant) -> Result<(), RetryAfter> {
        self.refill(now);
        if let Some(rest) = self.level.checked_sub(self.token) {
            self.level = rest;
            return Ok(());
        }
        let wait = (self.token - self.level).div_ceil(self.refill);
        Err(RetryAfter(Duration::from_nanos(
            u64::try_from(wait).unwrap_or(u64::MAX),
        )))
    }

    /// Goes on at another rate. The share of the bucket that was full stays full, so that a changed setting neither
    /// hands out a fresh burst nor refuses what was allowed.
    pub fn set_rate(&mut self, rate: &Rate, now: Instant) {
        self.refill(now);
        let changed = Self::new(rate, now);
        // Both capacities are below 2^97: scale the share to 2^30 steps first to stay within 128 bits.
        let share = (self.level << 30) / self.capacity;
        self.level = (changed.capacity * share) >> 30;
        (self.refill, self.token, self.capacity) = (changed.refill, changed.token, changed.capacity);
    }

    /// Whole tokens in the bucket at `now`.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.refill(now);
        u64::try_from(self.level / self.token).unwrap_or(u64::MAX)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at);
        self.filled_at += elapsed;
        self.level = self
            .level
            .saturating_add(elapsed.as_nanos().saturating_mul(self.refill))
            .min(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a starting point; the tests move it by hand")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn rates_are_exact() {
        for (text, nanotokens, seconds) in [
            ("40/5s", 40_000_000_000, 5),
            ("600/1m", 600_000_000_000, 60),
            ("3.5/2m", 3_500_000_000, 120),
            ("2.5/1h", 2_500_000_000, 3600),
            ("10/s", 10_000_000_000, 1),
            ("7", 7_000_000_000, 1),
            ("0.000000001/24h", 1, 86_400),
            ("1000000/1440m", 1_000_000_000_000_000, 86_400),
            ("1.5000000000000/s", 1_500_000_000, 1),
        ] {
            let rate = rate(text);
            assert_eq!(
                (rate.nanotokens(), rate.period().as_secs(), rate.as_str()),
                (nanotokens, seconds, text)
            );
        }
        assert_eq!(rate("40/5s"), rate("40.0/5s"));
        assert_ne!(rate("40/5s"), rate("8/s"));
    }

    #[test]
    fn bad_rates_say_where() {
        for (text, error) in [
            (
                "",
                RateError::Syntax {
                    expected: "a digit",
                    position: 0,
                },
            ),
            (
                "/5s",
                RateError::Syntax {
                    expected: "a digit",
                    position: 0,
                },
            ),
            (
                "-1/s",
                RateError::Syntax {
                    expected: "a digit",
                    position: 0,
                },
            ),
            (
                "1./s",
                RateError::Syntax {
                    expected: "a digit",
                    position: 2,
                },
            ),
            (
                "1.2.3/s",
                RateError::Syntax {
                    expected: "a digit",
                    position: 3,
                },
            ),
            (
                "1e3/s",
                RateError::Syntax {
                    expected: "`.`, `/` or a digit",
                    position: 1,
                },
            ),
            (
                "40/5",
                RateError::Syntax {
                    expected: "`s`, `m` or `h`",
                    position: 4,
                },
            ),
            (
                "40/",
                RateError::Syntax {
                    expected: "`s`, `m` or `h`",
                    position: 3,
                },
            ),
            (
                "40/5S",
                RateError::Syntax {
                    expected: "`s`, `m` or `h`",
                    position: 4,
                },
            ),
            (
                "40/5sx",
                RateError::Syntax {
                    expected: "the end",
                    position: 5,
                },
            ),
            (
                "40/5s/1m",
                RateError::Syntax {
                    expected: "the end",
                    position: 5,
                },
            ),
            ("0/s", RateError::Zero),
            ("0.0/s", RateError::Zero),
            ("1000000.1/s", RateError::TooMuch),
            ("99999999999999999999999/s", RateError::TooMuch),
            ("0.0000000001/s", RateError::TooFine),
            ("1/0s", RateError::Period),
            ("1/25h", RateError::Period),
            ("1/99999999999999999999h", RateError::Period),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn a_fractional_rate_does_not_drift() {
        let start = start();
        let mut bucket = TokenBucket::new(&rate("3.5/2m"), start);
        let mut taken = 0_u64;
        // Asked every 7 s for 1000 periods of 2 min: the full bucket holds 3.5, each period adds 3.5.
        let seconds = 120_000;
        for second in (0..=seconds).step_by(7) {
            taken += u64::from(bucket.try_take(start + Duration::from_secs(second)).is_ok());
        }
        assert_eq!(taken, 3503);
    }

    #[test]
    fn nothing_is_lost_however_often_one_asks() {
        let start = start();
        let mut bucket = TokenBucket::new(&rate("1/7s"), start);
        assert!(bucket.try_take(start).is_ok());
        for nano in 1..1000 {
            assert!(bucket.try_take(start + Duration::from_nanos(nano)).is_err());
        }
        let due = start + Duration::from_secs(7);
        assert_eq!(
            bucket.try_take(due - Duration::from_nanos(1)),
            Err(RetryAfter(Duration::from_nanos(1)))
        );
        assert!(bucket.try_take(due).is_ok());
    }

    #[test]
    fn a_burst_is_the_amount_and_then_the_wait_is_told() {
        let start = start();
        let mut bucket = TokenBucket::new(&rate("40/5s"), start);
        assert_eq!((0..100).filter(|_| bucket.try_take(start).is_ok()).count(), 40);
        let wait = bucket.try_take(start).unwrap_err();
        assert_eq!((wait.0, wait.seconds()), (Duration::from_millis(125), 1));
        assert!(bucket.try_take(start + wait.0).is_ok());
        let mut slow = TokenBucket::new(&rate("0.5/1h"), start);
        assert!(slow.try_take(start).is_ok());
        assert_eq!(slow.try_take(start).unwrap_err().seconds(), 7200);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = start() + Duration::from_secs(100);
        let mut bucket = TokenBucket::new(&rate("1/s"), start);
        assert!(bucket.try_take(start).is_ok());
        assert!(bucket.try_take(start - Duration::from_secs(50)).is_err());
        assert!(bucket.try_take(start + Duration::from_millis(999)).is_err());
        assert!(bucket.try_take(start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_changed_rate_keeps_the_filled_share() {
        let start = start();
        let mut bucket = TokenBucket::new(&rate("100/s"), start);
        for _ in 0..50 {
            bucket.try_take(start).unwrap();
        }
        bucket.set_rate(&rate("1000000/24h"), start);
        assert_eq!(bucket.available(start), 500_000);
        bucket.set_rate(&rate("10/s"), start);
        assert_eq!(bucket.available(start + Duration::from_millis(1)), 5);
    }
}
