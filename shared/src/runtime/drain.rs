//! An orderly end: the first SIGTERM or SIGINT begins the drain, the deadline or a second signal ends the patience.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Two events, both level: once they have happened, waiting for them returns at once. Clones see the same events.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    expired: CancellationToken,
}

impl Drain {
    /// A drain nothing begins by itself: [`Drain::begin`] and [`Drain::expire`] do.
    pub fn manual() -> Self {
        let expired = CancellationToken::new();
        // What has expired has begun, too.
        Self {
            begun: expired.child_token(),
            expired,
        }
    }

    /// Listens for SIGTERM and SIGINT on the current tokio runtime. After the first, work has `deadline` to end by
    /// itself. Errors when the handlers cannot be installed.
    pub fn on_signals(deadline: Duration) -> io::Result<Self> {
        let drain = Self::manual();
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        tokio::spawn(watch(drain.clone(), signals, deadline));
        Ok(drain)
    }

    /// Begins the drain.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends the patience; begins the drain if nothing has.
    pub fn expire(&self) {
        self.expired.cancel();
    }

    /// Whether new work is to be refused.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until new work is to be refused.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    /// Waits until running work is to be cut.
    pub fn expired(&self) -> WaitForCancellationFuture<'_> {
        self.expired.cancelled()
    }

    /// The token of the beginning, for what takes one.
    pub fn begun_token(&self) -> &CancellationToken {
        &self.begun
    }

    /// The token of the deadline, for what takes one.
    pub fn expired_token(&self) -> &CancellationToken {
        &self.expired
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn watch(drain: Drain, mut signals: Signals, deadline: Duration) {
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, deadline_s = deadline.as_secs(), "drain begins"),
        () = drain.begun() => tracing::info!(deadline_s = deadline.as_secs(), "drain begins"),
    }
    drain.begin();
    match tokio::time::timeout(deadline, signals.next()).await {
        Ok(signal) => tracing::warn!(signal, "second signal: running work is cut"),
        Err(_) => tracing::info!("drain deadline reached"),
    }
    drain.expire();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_expired_has_begun() {
        let drain = Drain::manual();
        assert!(!drain.has_begun());
        drain.expire();
        assert!(drain.has_begun());
    }

    #[test]
    fn a_beginning_leaves_time() {
        let drain = Drain::manual();
        let seen_elsewhere = drain.clone();
        drain.begin();
        assert!(seen_elsewhere.has_begun());
        assert!(!seen_elsewhere.expired_token().is_cancelled());
    }

    #[test]
    fn a_drain_that_began_ends_at_its_deadline() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let drain = Drain::on_signals(Duration::from_millis(1)).unwrap();
            drain.begin();
            tokio::time::timeout(Duration::from_secs(30), drain.expired())
                .await
                .unwrap();
        });
    }
}
