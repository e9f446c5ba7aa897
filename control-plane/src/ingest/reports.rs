//! `ReportService`: at least once on the wire, exactly once in the store.
//!
//! The cursor of a spool moves in the transaction that stores its reports, and the acknowledgement follows the commit:
//! whatever dies in between, a report sent again is recognised by its number.

use std::{sync::Arc, time::Instant};

use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, warn};
use trunkline_proto::{
    dataplane::v1::{
        AorBindings, Report, StreamReportsRequest, StreamReportsResponse, report::Event,
        report_service_server::ReportService,
    },
    v1,
};
use trunkline_shared::name::ConversationId;

use super::{Bindings, LiveCalls};
use crate::{
    identity::authenticate_worker,
    metrics::{Metrics, ReportLabels},
    store::{Store, StoreError, WriteTx, call, registration, report},
    stream::{
        Fleet,
        catalogue::{Catalogue, Key},
    },
};

/// Reports in one message.
const MAX_BATCH: usize = 1000;
/// Bindings of one address of record: the most a trunk can allow.
const MAX_BINDINGS: usize = 50;
/// Longest user part of an address of record, in octets.
const MAX_USER: usize = 255;
/// Acknowledgements queued to one worker; a batch is read only when there is room for its acknowledgement.
const QUEUE: usize = 4;

/// Takes the reports of the workers in.
#[derive(Debug, Clone)]
pub struct Reports {
    store: Store,
    fleet: Fleet,
    calls: LiveCalls,
    bindings: Bindings,
    metrics: Metrics,
    /// What was stored later is shown later: one batch at a time from the write to the live view. The store has one
    /// writer anyway.
    order: Arc<Mutex<()>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Reports {
    /// Stores reports until `stop` is cancelled; `tasks` tracks the streams.
    pub fn new(
        store: Store,
        fleet: Fleet,
        calls: LiveCalls,
        bindings: Bindings,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let metrics = fleet.metrics().clone();
        Self {
            store,
            fleet,
            calls,
            bindings,
            metrics,
            order: Arc::default(),
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
        } = batch;
        if spool_id.is_empty() || spool_id.len() > 64 || boot_id.len() > 64 {
            return Err(Status::invalid_argument("spool_id and boot_id: 1-64 characters"));
        }
        if reports.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "reports: more than {MAX_BATCH} in one message"
            )));
        }
        let began = Instant::now();
        let _order = self.order.lock().await;
        let stored = self
            .store_reports(worker, &spool_id, &boot_id, reports)
            .await
            .map_err(|error| {
                error!(worker, error = &error as &dyn std::error::Error, "store reports");
                Status::unavailable("the store is not available; try again")
            })?;
        self.calls.apply(stored.calls);
        if stored.bindings
            && let Err(error) = self.bindings.refresh(&self.store).await
        {
            // The next change or the next upkeep looks again.
            warn!(
                error = &error as &dyn std::error::Error,
                "publish the revision of registrations"
            );
        }
        self.metrics.report_batch.observe(Metrics::seconds(began.elapsed()));
        Ok(stored.sequence)
    }

    async fn store_reports(
        &self,
        worker: &str,
        spool: &str,
        boot_id: &str,
        reports: Vec<Report>,
    ) -> Result<Stored, StoreError> {
        let mut tx = self.store.write().await?;
        let mut sequence = report::cursor(tx.conn(), worker, spool).await?;
        let mut batch = Batch {
            worker,
            boot_id,
            catalogue: self.fleet.catalogue(),
            calls: Vec::new(),
            bindings: false,
            kinds: Vec::new(),
        };
        let (mut repeated, mut missing) = (0, 0);
        for report in reports {
            if report.sequence <= sequence {
                repeated += 1;
                continue;
            }
            missing += report.sequence - sequence - 1;
            sequence = report.sequence;
            batch.store(&mut tx, report).await?;
        }
        report::set_cursor(&mut tx, worker, spool, sequence).await?;
        tx.commit().await?;
        let Batch {
            calls, bindings, kinds, ..
        } = batch;
        for kind in kinds {
            self.metrics.reports.get_or_create(&ReportLabels { kind }).inc();
        }
        self.metrics.reports_repeated.inc_by(repeated);
        if missing > 0 {
            warn!(worker, missing, "the worker's spool skipped reports");
            self.metrics.reports_missing.inc_by(missing);
        }
        Ok(Stored {
            sequence,
            calls,
            bindings,
        })
    }
}

struct Stored {
    sequence: u64,
    calls: Vec<v1::Call>,
    bindings: bool,
}

/// Reports of one transaction.
struct Batch<'a> {
    worker: &'a str,
    boot_id: &'a str,
    catalogue: Arc<Catalogue>,
    calls: Vec<v1::Call>,
    bindings: bool,
    kinds: Vec<&'static str>,
}

impl Batch<'_> {
    /// Stores one report. One that makes no sense is logged and counted as taken: sent again it would make no more.
    async fn store(&mut self, tx: &mut WriteTx, report: Report) -> Result<(), StoreError> {
        let time_ms = report.time.map_or(tx.now_ms(), |time| {
            time.seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(time.nanos) / 1_000_000)
        });
        match report.event {
            Some(Event::Call(call)) => {
                self.kinds.push("call");
                self.store_call(tx, call).await?;
            }
            Some(Event::Registration(bindings)) => {
                self.kinds.push("registration");
                self.store_bindings(tx, bindings).await?;
            }
            Some(Event::Booted(booted)) => {
                self.kinds.push("booted");
                self.calls
                    .extend(call::end_lost(tx, self.worker, &booted.boot_id).await?);
            }
            Some(Event::AuthenticationFailure(failure)) => {
                self.kinds.push("authentication_failure");
                report::insert_authentication_failure(tx, self.worker, time_ms, &failure).await?;
            }
            None => warn!(
                worker = self.worker,
                sequence = report.sequence,
                "a report of a kind unknown here"
            ),
        }
        Ok(())
    }

    async fn store_call(&mut self, tx: &mut WriteTx, call: v1::Call) -> Result<(), StoreError> {
        if ConversationId::parse_name(&call.name).is_err() {
            warn!(worker = self.worker, "a call without a conversation id");
            return Ok(());
        }
        // Who reports it has it, whatever the report says.
        let call = v1::Call {
            worker: format!("workers/{}", self.worker),
            ..call
        };
        if call::upsert(tx, self.boot_id, &call).await? {
            self.calls.push(call);
        }
        Ok(())
    }

    async fn store_bindings(&mut self, tx: &mut WriteTx, mut bindings: AorBindings) -> Result<(), StoreError> {
        let known = self
            .catalogue
            .entry(&Key::new(crate::store::ResourceKind::Trunk, &bindings.trunk))
            .is_some();
        let sound = (1..=MAX_USER).contains(&bindings.user.len()) && bindings.bindings.len() <= MAX_BINDINGS;
        if !known || !sound {
            // A trunk that was deleted meanwhile has no phones.
            debug!(
                worker = self.worker,
                trunk = bindings.trunk,
                "a registration that cannot be kept"
            );
            return Ok(());
        }
        for binding in bindings.bindings.iter_mut().filter(|binding| binding.worker.is_empty()) {
            binding.worker = format!("workers/{}", self.worker);
        }
        self.bindings |= registration::upsert(tx, &bindings).await?;
        Ok(())
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
