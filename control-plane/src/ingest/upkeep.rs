//! What has to be done from time to time: old rows go, live state is written down, certificates are renewed.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    identity::{Authority, BootstrapError, ServerCertificate, ServerTlsError, ensure_join_token_file},
    store::{Store, StoreError, call, now_ms, registration, report, settings},
    stream::Fleet,
};

/// Between writing down what the workers' streams changed.
const PERSIST: Duration = Duration::from_secs(2);
/// Every how many of those the old rows are looked for: 30 s.
const PURGE_EVERY: u32 = 15;
/// Rows removed in one transaction: reports wait no longer than some milliseconds for the writer.
const PURGE_ROWS: u32 = 500;
/// An unregistered address of record is remembered for watchers that were away.
const GONE_KEPT_MS: i64 = 24 * 3_600_000;
/// Digest failures are kept this long, and at most this many.
const FAILURES_KEPT_MS: i64 = 7 * 24 * 3_600_000;
const FAILURES_KEPT: u32 = 100_000;
/// A spool that was silent for this long does not come back.
const CURSORS_KEPT_MS: i64 = 365 * 24 * 3_600_000;
/// Ended calls are kept this long unless the settings say otherwise.
const CALLS_KEPT_MS: i64 = 90 * 24 * 3_600_000;

/// The regular work of the control plane.
#[derive(Debug)]
pub struct Upkeep {
    /// The store.
    pub store: Store,
    /// The workers.
    pub fleet: Fleet,
    /// Issues certificates.
    pub authority: Arc<Authority>,
    /// The listeners' certificate.
    pub certificate: Arc<ServerCertificate>,
    /// File with a join token that is always good.
    pub join_token_file: Option<PathBuf>,
}

/// What did not work this time.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The listeners' certificate was not renewed.
    #[error("renew the certificate of the listeners")]
    Certificate(#[from] ServerTlsError),
    /// The join token file was not renewed.
    #[error(transparent)]
    JoinToken(#[from] BootstrapError),
}

impl Upkeep {
    /// Works until `stop` is cancelled. What fails is logged and tried again at the next turn.
    pub async fn run(self, stop: CancellationToken) {
        let mut turns = interval(PERSIST);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0_u32;
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.fleet.unsaved() => self.fleet.persist(&self.store).await.map_err(UpkeepError::from),
                _ = turns.tick() => {
                    turn = turn.wrapping_add(1);
                    self.turn(turn % PURGE_EVERY == 1).await
                }
            };
            if let Err(error) = result {
                error!(error = &error as &dyn std::error::Error, "upkeep");
            }
        }
    }

    async fn turn(&self, purge: bool) -> Result<(), UpkeepError> {
        self.fleet.persist(&self.store).await?;
        self.store.settle_if_due().await?;
        if !purge {
            return Ok(());
        }
        if self.certificate.renew_if_due(&self.authority, SystemTime::now())? {
            info!("certificate of the listeners renewed");
        }
        if let Some(path) = &self.join_token_file {
            ensure_join_token_file(&self.store, path).await?;
        }
        self.purge().await?;
        let mut view = self.store.read().await?;
        self.fleet
            .metrics()
            .registrations
            .set(registration::registered(view.conn()).await?);
        Ok(())
    }

    /// Removes old rows in small transactions, so that reports get their turn in between.
    async fn purge(&self) -> Result<(), StoreError> {
        let calls_before = now_ms() - self.call_retention_ms().await?;
        loop {
            let mut tx = self.store.write().await?;
            let now_ms = tx.now_ms();
            let mut purged = registration::purge_expired(&mut tx, PURGE_ROWS).await?;
            purged += registration::purge_gone(&mut tx, now_ms - GONE_KEPT_MS, PURGE_ROWS).await?;
            purged += call::purge(&mut tx, calls_before, PURGE_ROWS).await?;
            purged +=
                report::purge_authentication_failures(&mut tx, now_ms - FAILURES_KEPT_MS, FAILURES_KEPT, PURGE_ROWS)
                    .await?;
            purged += report::purge_cursors(&mut tx, now_ms - CURSORS_KEPT_MS).await?;
            if purged == 0 {
                return tx.rollback().await;
            }
            tx.commit().await?;
        }
    }

    async fn call_retention_ms(&self) -> Result<i64, StoreError> {
        let mut view = self.store.read().await?;
        let retention = settings::find(view.conn())
            .await?
            .and_then(|settings| settings.message.call_retention);
        Ok(retention.map_or(CALLS_KEPT_MS, |retention| retention.seconds.saturating_mul(1000)))
    }
}
