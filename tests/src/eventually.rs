//! Waiting for a value, with a bound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a loaded two-core machine may take for things that take milliseconds.
pub const BOUND: Duration = Duration::from_secs(20);

/// Asks `probe` until it gives a value. While it cannot, it says why not, and the last reason is in the error.
///
/// # Errors
/// When there is no value within `bound`.
pub async fn eventually<T>(what: &str, bound: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let since = Stopwatch::start();
    let mut pause = Duration::from_millis(2);
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(reason) if since.elapsed() >= bound => {
                return Err(reason).with_context(|| format!("waited {bound:?} in vain for {what}"));
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Lets a call last: a phone that talks is not a value to wait for.
pub async fn talk(duration: Duration) {
    sleep(duration).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at a value of another process"
)]
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Measures what is printed, and bounds what is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "system tests run in real time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
