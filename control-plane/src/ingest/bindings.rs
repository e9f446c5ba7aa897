//! `BindingService`: registrations of all workers, for each worker.
//!
//! A watcher first reads the store by revision, address of record by address of record as it stands then. From there on
//! it is told what other workers report as it comes in, under the revision it has; when the store's table has caught up it
//! is told the revision. One that is too slow for the news reads the store again: it gets fewer, newer changes, and
//! little is queued for it.

use std::time::Duration;

use prost::Message as _;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use tracing::{debug, error};
use trunkline_proto::dataplane::v1::{
    WatchBindingsRequest, WatchBindingsResponse, binding_service_server::BindingService,
};

use crate::{
    identity::authenticate_worker,
    store::{BindingNews, Store, StoreError, registration},
};

/// Addresses of record in one message: some 100 KiB.
const PAGE: u32 = 500;
/// Messages queued to one watcher.
const QUEUE: usize = 4;
/// A watcher that does not read for this long is let go.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the watchers.
#[derive(Debug, Clone)]
pub struct BindingStreams {
    store: Store,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BindingStreams {
    /// Watches the store until `stop` is cancelled; `tasks` tracks the watchers.
    pub fn new(store: Store, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self { store, stop, tasks }
    }

    async fn serve(self, worker: String, revision: i64, outgoing: Outgoing) {
        let status = tokio::select! {
            biased;
            () = self.stop.cancelled() => Status::unavailable("the control plane is going down"),
            () = outgoing.closed() => return,
            result = self.follow(&worker, revision, &outgoing) => match result {
                Ok(Gone) => Status::resource_exhausted("the watcher does not read"),
                Err(error) => {
                    error!(worker, error = &error as &dyn std::error::Error, "read registrations for a worker");
                    Status::unavailable("the store is not available; try again")
                }
            },
        };
        debug!(worker, %status, "binding stream ended");
        // Nobody is there to read it when this fails.
        drop(outgoing.try_send(Err(status)));
    }

    async fn follow(&self, worker: &str, revision: i64, outgoing: &Outgoing) -> Result<Gone, StoreError> {
        let mut watcher = Watcher { revision, full: false };
        let mut news = self.store.binding_news();
        let mut is_behind = true;
        loop {
            while std::mem::take(&mut is_behind) {
                // What is told from here on is newer than what is read below.
                news = self.store.binding_news();
                self.store.settle().await?;
                while let Some((message, more)) = watcher.next(&self.store).await? {
                    if send(outgoing, message).await.is_err() {
                        return Ok(Gone);
                    }
                    if !more {
                        break;
                    }
                }
            }
            let message = match news.recv().await {
                // It has them already.
                Ok(BindingNews::Reported(reporter, _)) if *reporter == *worker => continue,
                Ok(BindingNews::Reported(_, changes)) => watcher.tell(changes.to_vec()),
                Ok(BindingNews::Settled(revision)) if revision > watcher.revision => {
                    watcher.revision = revision;
                    watcher.tell(Vec::new())
                }
                Ok(BindingNews::Settled(_)) => continue,
                Ok(BindingNews::Changed) | Err(RecvError::Lagged(_)) => {
                    is_behind = true;
                    continue;
                }
                Err(RecvError::Closed) => return Ok(Gone),
            };
            if send(outgoing, message).await.is_err() {
                return Ok(Gone);
            }
        }
    }
}

async fn send(outgoing: &Outgoing, message: WatchBindingsResponse) -> Result<(), Gone> {
    let sent = outgoing.send_timeout(Ok(message), SEND_TIMEOUT).await;
    sent.map_err(|_| Gone)
}

type Outgoing = mpsc::Sender<Result<WatchBindingsResponse, Status>>;

/// The watcher does not read.
struct Gone;

/// Where a watcher stands.
struct Watcher {
    /// Every row up to here has reached it.
    revision: i64,
    /// In the middle of a full set.
    full: bool,
}

impl Watcher {
    /// Changes (encoded) at the revision the watcher has.
    fn tell(&self, changes: Vec<prost::bytes::Bytes>) -> WatchBindingsResponse {
        WatchBindingsResponse {
            revision: self.revision,
            changes,
            reset: false,
            complete: false,
        }
    }

    /// The next message, and whether more is there to be read; `None` when the watcher has everything.
    async fn next(&mut self, store: &Store) -> Result<Option<(WatchBindingsResponse, bool)>, StoreError> {
        let mut view = store.read().await?;
        let (current, floor) = registration::revision(view.conn()).await?;
        let mut reset = false;
        // Never seen anything, or removals it has not seen are forgotten, or it comes from another store.
        if !self.full && (self.revision <= 0 || self.revision < floor || self.revision > current) {
            (self.revision, self.full, reset) = (0, true, true);
        }
        let rows = registration::changes_since(view.conn(), self.revision, PAGE).await?;
        let more = rows.len() >= PAGE as usize;
        if rows.is_empty() && !self.full {
            // Rows that are gone again leave nothing to tell.
            self.revision = current;
            return Ok(None);
        }
        self.revision = if more {
            rows.last().map_or(current, |(revision, _)| *revision)
        } else {
            current
        };
        let changes = rows
            .into_iter()
            .map(|(_, bindings)| bindings)
            // A full set says what is there; what is not in it is gone.
            .filter(|bindings| !self.full || !bindings.bindings.is_empty())
            .map(|bindings| bindings.encode_to_vec().into())
            .collect();
        let complete = self.full && !more;
        self.full &= more;
        Ok(Some((
            WatchBindingsResponse {
                revision: self.revision,
                changes,
                reset,
                complete,
            },
            more,
        )))
    }
}

#[tonic::async_trait]
impl BindingService for BindingStreams {
    type WatchBindingsStream = ReceiverStream<Result<WatchBindingsResponse, Status>>;

    async fn watch_bindings(
        &self,
        request: Request<WatchBindingsRequest>,
    ) -> Result<Response<Self::WatchBindingsStream>, Status> {
        let identity = authenticate_worker(&self.store, request.extensions()).await?;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        self.tasks.spawn(
            self.clone()
                .serve(identity.worker, request.into_inner().revision, outgoing),
        );
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
