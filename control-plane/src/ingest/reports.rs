//! `ReportService`: at least once on the wire, exactly once in the store.
//!
//! A batch is in the store's log, with the numbers of its reports, before it is acknowledged: whatever dies in between, a
//! report sent again is recognised by its number.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, warn};
use trunkline_proto::dataplane::v1::{
    StreamReportsRequest, StreamReportsResponse, report_service_server::ReportService,
};

use crate::{
    identity::authenticate_worker,
    metrics::{Metrics, ReportLabels},
    store::{ResourceKind, Store, Taken},
    stream::{Fleet, catalogue::Key},
};

/// Reports in one message.
const MAX_BATCH: usize = 1000;
/// Acknowledgements queued to one worker; a batch is read only when there is room for its acknowledgement.
const QUEUE: usize = 4;

/// Takes the reports of the workers in.
#[derive(Debug, Clone)]
pub struct Reports {
    store: Store,
    fleet: Fleet,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Reports {
    /// Stores reports until `stop` is cancelled; `tasks` tracks the streams.
    pub fn new(store: Store, fleet: Fleet, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let metrics = fleet.metrics().clone();
        Self {
            store,
            fleet,
            metrics,
            stop,
            tasks,
        }
    }

    async fn serve(
        self,
        worker: String,
        mut incoming: Streaming<StreamReportsRequest>,
        outgoing: mpsc::Sender<Result<StreamReportsResponse, Status>>,
    ) {
        let status = loop {
            let room = tokio::select! {
                biased;
                () = self.stop.cancelled() => break Status::unavailable("the control plane is going down"),
                room = outgoing.reserve() => room,
            };
            let Ok(room) = room else { return };
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    room.send(Err(Status::unavailable("the control plane is going down")));
                    return;
                }
                message = incoming.message() => message,
            };
            let batch = match message {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(status) => {
                    debug!(worker, error = %status, "report stream broke");
                    return;
                }
            };
            match self.store_batch(&worker, batch).await {
                Ok(acknowledged_sequence) => room.send(Ok(StreamReportsResponse { acknowledged_sequence })),
                Err(status) => {
                    room.send(Err(status));
                    return;
                }
            }
        };
        // Nobody is there to read it when this fails.
        drop(outgoing.try_send(Err(status)));
    }

    async fn store_batch(&self, worker: &str, batch: StreamReportsRequest) -> Result<u64, Status> {
        let StreamReportsRequest {
            spool_id,
            boot_id,
            reports,
        } = &batch;
        if spool_id.is_empty() || spool_id.len() > 64 || boot_id.len() > 64 {
            return Err(Status::invalid_argument("spool_id and boot_id: 1-64 characters"));
        }
        if reports.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "reports: more than {MAX_BATCH} in one message"
            )));
        }
        let began = Instant::now();
        let catalogue = self.fleet.catalogue();
        let is_known = |trunk: &str| catalogue.entry(&Key::new(ResourceKind::Trunk, trunk)).is_some();
        let taken = self
            .store
            .take_reports(worker, batch, &is_known)
            .await
            .map_err(|error| {
                error!(worker, error = &error as &dyn std::error::Error, "store reports");
                Status::unavailable("the store is not available; try again")
            })?;
        self.count(worker, &taken);
        self.metrics.report_batch.observe(Metrics::seconds(began.elapsed()));
        Ok(taken.sequence)
    }

    fn count(&self, worker: &str, taken: &Taken) {
        for (kind, count) in &taken.kinds {
            self.metrics
                .reports
                .get_or_create(&ReportLabels { kind })
                .inc_by(*count);
        }
        self.metrics.reports_repeated.inc_by(taken.repeated);
        if taken.missing > 0 {
            warn!(worker, missing = taken.missing, "the worker's spool skipped reports");
            self.metrics.reports_missing.inc_by(taken.missing);
        }
        let active = i64::try_from(taken.active_calls).unwrap_or(i64::MAX);
        self.metrics.calls_active.set(active);
    }
}

#[tonic::async_trait]
impl ReportService for Reports {
    type StreamReportsStream = ReceiverStream<Result<StreamReportsResponse, Status>>;

    async fn stream_reports(
        &self,
        request: Request<Streaming<StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let identity = authenticate_worker(&self.store, request.extensions()).await?;
        let (outgoing, acknowledgements) = mpsc::channel(QUEUE);
        self.tasks
            .spawn(self.clone().serve(identity.worker, request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(acknowledgements)))
    }
}
