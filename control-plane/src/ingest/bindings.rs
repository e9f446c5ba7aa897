//! `BindingService`: registrations of all workers, for each worker.
//!
//! Changes are read from the store by revision, address of record by address of record as it stands then: a watcher
//! that is slow gets fewer, newer changes, and nothing is queued for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use tracing::{debug, error};
use trunkline_proto::dataplane::v1::{
    WatchBindingsRequest, WatchBindingsResponse, binding_service_server::BindingService,
};

use crate::{
    identity::authenticate_worker,
    store::{Store, StoreError, registration},
};

/// Addresses of record in one message: some 100 KiB.
const PAGE: u32 = 500;
/// Messages queued to one watcher.
const QUEUE: usize = 4;
/// A watcher that does not read for this long is let go.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Revision of the registrations; clones share it.
#[derive(Debug, Clone)]
pub struct Bindings {
    revision: Arc<watch::Sender<i64>>,
}

impl Bindings {
    /// At the revision of the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: &Store) -> Result<Self, StoreError> {
        let mut view = store.read().await?;
        let (revision, _) = registration::revision(view.conn()).await?;
        Ok(Self {
            revision: Arc::new(watch::Sender::new(revision)),
        })
    }

    /// Looks at the store again, after a commit that may have changed registrations.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let mut view = store.read().await?;
        let (revision, _) = registration::revision(view.conn()).await?;
        self.revision.send_if_modified(|published| {
            let newer = revision > *published;
            *published = revision.max(*published);
            newer
        });
        Ok(())
    }
}

/// Serves the watchers.
#[derive(Debug, Clone)]
pub struct BindingStreams {
    store: Store,
    bindings: Bindings,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BindingStreams {
    /// Watches `bindings` until `stop` is cancelled; `tasks` tracks the watchers.
    pub fn new(store: Store, bindings: Bindings, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            store,
            bindings,
            stop,
            tasks,
        }
    }

    async fn serve(self, worker: String, revision: i64, outgoing: Outgoing) {
        let status = tokio::select! {
            biased;
            () = self.stop.cancelled() => Status::unavailable("the control plane is going down"),
            () = outgoing.closed() => return,
            result = self.follow(revision, &outgoing) => match result {
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

    async fn follow(&self, revision: i64, outgoing: &Outgoing) -> Result<Gone, StoreError> {
        let mut news = self.bindings.revision.subscribe();
        let mut watcher = Watcher { revision, full: false };
        loop {
            news.borrow_and_update();
            loop {
                let page = watcher.next(&self.store).await?;
                let Some((message, more)) = page else { break };
                if outgoing.send_timeout(Ok(message), SEND_TIMEOUT).await.is_err() {
                    return Ok(Gone);
                }
                if !more {
                    break;
                }
            }
            if news.changed().await.is_err() {
                return Ok(Gone);
            }
        }
    }
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
