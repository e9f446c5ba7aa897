//! Registrations of all workers, as the control plane tells them.
//!
//! Our own changes go up as reports; what we report while we watch does not come back. The watch asks for what changed
//! since the revision that is on disk; only when that is not known any more does it get a full set.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trunkline_engine::io::Report;
use trunkline_proto::dataplane::v1 as wire;
use trunkline_proto::dataplane::v1::binding_service_client::BindingServiceClient;
use trunkline_proto::dataplane::v1::{WatchBindingsRequest, WatchBindingsResponse};
use trunkline_shared::binding::{Aor, AorBindings};
use trunkline_shared::name::WorkerId;

use super::backoff::Backoff;
use super::journal::BindingJournal;
use super::link::{Link, MAX_MESSAGE, chain};
use super::reports::ReportSender;
use crate::env::bindings::BindingStore;

/// The control plane answers a watch at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Follows the registrations; see the module.
pub struct BindingWatch {
    worker: WorkerId,
    store: Arc<BindingStore>,
    journal: Arc<BindingJournal>,
    reports: ReportSender,
    /// The full set being received.
    full: Option<FullSet>,
}

/// A full set under way: what is not in it when it is complete is gone.
#[derive(Default)]
struct FullSet(HashSet<Aor>);

impl BindingWatch {
    /// Keeps `store` and its copy on disk in step. `worker` is this one: its own registrations survive a full set that
    /// lacks them, and are reported again.
    pub fn new(
        worker: WorkerId,
        store: Arc<BindingStore>,
        journal: Arc<BindingJournal>,
        reports: ReportSender,
    ) -> Self {
        Self {
            worker,
            store,
            journal,
            reports,
            full: None,
        }
    }

    /// Watches until `shutdown`, reconnecting as needed.
    pub async fn run(mut self, link: Link, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                ended = self.watch(&link, &mut backoff) => ended,
            };
            tracing::debug!(reason = %ended, "registration watch ended");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.delay(rand::random())) => {}
            }
        }
    }

    async fn watch(&mut self, link: &Link, backoff: &mut Backoff) -> String {
        self.full = None;
        let open = async {
            let channel = link.connect().await.map_err(|error| chain(&error))?;
            let mut client = BindingServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            let request = WatchBindingsRequest {
                revision: self.journal.revision(),
            };
            let stream = client
                .watch_bindings(request)
                .await
                .map_err(|status| status.to_string())?;
            Ok::<_, String>(stream.into_inner())
        };
        let mut stream = match timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => return reason,
            Err(_) => return "no answer in time".into(),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    backoff.reset();
                    self.take(message).await;
                }
                Ok(None) => return "the control plane closed it".into(),
                Err(status) => return status.to_string(),
            }
        }
    }

    /// Takes one message in: into the table at once, to disk from a blocking thread before the next one is read.
    async fn take(&mut self, message: WatchBindingsResponse) {
        let WatchBindingsResponse {
            revision,
            changes,
            reset,
            complete,
        } = message;
        if reset {
            self.full = Some(FullSet::default());
        }
        let mut merged = Vec::new();
        for change in changes {
            match decode(&change) {
                Ok(view) => {
                    if let Some(FullSet(present)) = &mut self.full {
                        present.insert(view.aor.clone());
                    }
                    if self.store.merge(&view) {
                        merged.push(view);
                    }
                }
                Err(error) => tracing::warn!(%error, "a registration from the control plane cannot be used"),
            }
        }
        if complete && let Some(full) = self.full.take() {
            merged.extend(self.forget_absent(&full));
        }
        // In the middle of a full set no revision is reached.
        let revision = self.full.is_none().then_some(revision);
        let journal = Arc::clone(&self.journal);
        match tokio::task::spawn_blocking(move || journal.append(&merged, revision)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "registrations could not be written to disk"),
            Err(error) => tracing::error!(%error, "registrations could not be encoded"),
        }
    }

    /// Removes what a full set lacks. Ours stay: either they are on their way up, or the control plane lost them and is
    /// told again; should it know better, it says so and the later change wins.
    fn forget_absent(&self, FullSet(present): &FullSet) -> Vec<AorBindings> {
        let now = SystemTime::now();
        let mut forgotten = Vec::new();
        for view in self.store.views() {
            if present.contains(&view.aor) || view.bindings.is_empty() {
                continue;
            }
            let ours = view
                .live(now)
                .any(|binding| binding.worker.as_ref() == Some(&self.worker));
            if ours {
                self.reports.send(now, Report::Registration(view));
                continue;
            }
            // One later than what is here now; a change that comes in between is later still or ours, and stays.
            let gone = AorBindings {
                bindings: Vec::new(),
                change_time_ms: view.change_time_ms.saturating_add(1),
                ..view
            };
            if self.store.merge(&gone) {
                forgotten.push(gone);
            }
        }
        forgotten
    }
}

/// Reads encoded bindings of an address of record.
pub(super) fn decode(change: &[u8]) -> anyhow::Result<AorBindings> {
    Ok(wire::AorBindings::decode(change)?.try_into()?)
}

#[cfg(test)]
mod tests;
