//! Waiting between attempts to reach the control plane.

use std::time::Duration;

/// Delay after the first failure.
pub const FLOOR: Duration = Duration::from_millis(100);
/// Longest delay.
pub const CEILING: Duration = Duration::from_secs(5);

/// Delays that grow by half from [`FLOOR`] to [`CEILING`], each shortened at random by up to a half.
///
/// The factor is small on purpose: the delay is about half of the time the control plane has been away, so one that was
/// away for two seconds is found within the next. The random half keeps a fleet from arriving as one.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FLOOR }
    }
}

impl Backoff {
    /// How long to wait now. `random` is uniform in 0..1.
    pub fn delay(&mut self, random: f64) -> Duration {
        let delay = self.next;
        self.next = (delay * 3 / 2).min(CEILING);
        delay.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked: the next failure is a first one.
    pub fn reset(&mut self) {
        self.next = FLOOR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_ceiling_and_start_over() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(0.0), FLOOR);
        assert_eq!(backoff.delay(0.0), FLOOR * 3 / 2);
        let last = (0..20).map(|_| backoff.delay(0.0)).last();
        assert_eq!(last, Some(CEILING));
        backoff.reset();
        assert_eq!(backoff.delay(1.0), FLOOR / 2);
    }

    #[test]
    fn whoever_was_away_for_two_seconds_is_found_within_one_more() {
        let mut backoff = Backoff::default();
        let mut elapsed = Duration::ZERO;
        while elapsed <= Duration::from_secs(2) {
            elapsed += backoff.delay(0.0);
        }
        assert!(elapsed <= Duration::from_secs(3), "{elapsed:?}");
    }
}
