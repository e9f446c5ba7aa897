//! Reports on their way to the control plane: from the shards to the spool, from the spool up.
//!
//! ```text
//! shards ── ReportSender ──► intake (memory) ── spool thread ──► Spool (disk) ── ReportUplink ──► control plane
//! ```
//!
//! A shard never waits: it locks the intake for as long as a push into a vector takes. While the disk is slow or refuses,
//! the intake holds a bounded queue; beyond it, reports of the same call or address of record replace each other, because
//! each says everything of its subject. What then still finds no room is refused and counted, never dropped silently.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use trunkline_engine::io::Report;
use trunkline_proto::dataplane::v1::report::Event;
use trunkline_proto::dataplane::v1::report_service_client::ReportServiceClient;
use trunkline_proto::dataplane::v1::{
    AuthenticationFailure, StreamReportsRequest, StreamReportsResponse, WorkerBooted,
};
use trunkline_shared::binding::Aor;
use trunkline_shared::call::CallState;
use trunkline_shared::name::ConversationId;
use uuid::Uuid;

use super::Boot;
use super::backoff::Backoff;
use super::journal::BindingJournal;
use super::link::{Link, MAX_MESSAGE, chain};
use super::spool::{Backlog, Batch, Limits, Spool, Weight};
use crate::metrics::MetricsSet;
use crate::trace::CallTraces;

/// Reports queued in order: some seconds of a busy worker.
const QUEUE: usize = 32_768;
/// Subjects whose last report waits beyond the queue; with the queue some 300 MB at worst.
const OVERFLOW: usize = 131_072;
/// Reports written at a time: the spool is locked for as long.
const CHUNK: usize = 512;
/// What the death of the machine, not of the process, may cost.
const SYNC_EVERY: Duration = Duration::from_millis(250);
/// A disk that refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// Reports and octets of one message to the control plane.
const BATCH_REPORTS: usize = 500;
const BATCH_OCTETS: usize = 256 << 10;
/// Batches sent and not acknowledged.
const WINDOW: usize = 4;
/// A control plane that does not acknowledge for this long gets a new stream.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// At the end of the process the last reports may take this long to be stored; what is not goes up after the next start.
const FLUSH: Duration = Duration::from_secs(3);

/// Opens the spool, notes that this process began, and starts its thread. Registrations that pass are noted in `journal`,
/// ended calls become spans of `traces`; neither is the shards' time.
///
/// # Errors
/// A spool directory that cannot be read or written, no thread.
pub fn start_spool(
    state_dir: &Path,
    boot: Boot,
    limits: Limits,
    journal: Arc<BindingJournal>,
    traces: CallTraces,
    metrics: Arc<MetricsSet>,
) -> io::Result<(ReportSender, ReportUplink, SpoolThread)> {
    let mut spool = Spool::open(&state_dir.join("spool"), boot.id, limits)?;
    let booted = Event::Booted(WorkerBooted {
        boot_id: boot.id.to_string(),
    });
    spool.append(&[(boot.time.into(), booted, Weight::Heavy)])?;
    let spool = Arc::new(SharedSpool {
        backlog: watch::Sender::new(spool.backlog()),
        spool: Mutex::new(spool),
        appended: Notify::new(),
    });
    let intake = Arc::new(Intake {
        state: Mutex::new(Pending::default()),
        ready: Condvar::new(),
        metrics: Arc::clone(&metrics),
    });
    let writer = SpoolWriter {
        intake: Arc::clone(&intake),
        spool: Arc::clone(&spool),
        journal,
        traces,
        metrics: Arc::clone(&metrics),
        synced: Instant::now(),
        dirty: true,
    };
    let join = std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || writer.run())?;
    let uplink = ReportUplink { spool, metrics };
    Ok((ReportSender(Arc::clone(&intake)), uplink, SpoolThread { intake, join }))
}

/// Takes reports from the shards; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReportSender(Arc<Intake>);

impl ReportSender {
    /// Hands a report over that was made at `now`. Never blocks on I/O; see the module for what happens when the spool
    /// cannot keep up.
    pub fn send(&self, now: SystemTime, report: Report) {
        self.0.put(now, report);
    }
}

/// The running spool thread.
#[derive(Debug)]
pub struct SpoolThread {
    intake: Arc<Intake>,
    join: JoinHandle<()>,
}

impl SpoolThread {
    /// Takes no more reports, writes those it has, and waits until they are on disk. Blocks.
    pub fn finish(self) {
        self.intake.lock().closed = true;
        self.intake.ready.notify_all();
        if self.join.join().is_err() {
            tracing::error!("the spool thread panicked");
        }
    }
}

/// What the shards hand over and the spool thread has not taken.
#[derive(Debug)]
struct Intake {
    state: Mutex<Pending>,
    ready: Condvar,
    metrics: Arc<MetricsSet>,
}

#[derive(Debug, Default)]
struct Pending {
    queue: Vec<(SystemTime, Report)>,
    /// The last report of each subject since the queue was full.
    overflow: HashMap<Subject, (SystemTime, Report)>,
    closed: bool,
}

/// What a report is of; the later of two replaces the earlier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Call(ConversationId),
    Registration(Aor),
}

impl Subject {
    fn of(report: &Report) -> Option<Subject> {
        match report {
            Report::Call(call) => Some(Subject::Call(call.id)),
            Report::Registration(view) => Some(Subject::Registration(view.aor.clone())),
            Report::AuthenticationFailure { .. } => None,
        }
    }
}

impl Intake {
    fn put(&self, now: SystemTime, report: Report) {
        let mut pending = self.lock();
        if pending.closed {
            drop(pending);
            return self.metrics.count_reports_refused(1);
        }
        let was_empty = pending.is_empty();
        // Once something is in the overflow everything goes there: no subject's reports overtake each other.
        if pending.queue.len() < QUEUE && pending.overflow.is_empty() {
            pending.queue.push((now, report));
        } else {
            let room = pending.overflow.len() < OVERFLOW;
            match Subject::of(&report) {
                Some(subject) if room || pending.overflow.contains_key(&subject) => {
                    pending.overflow.insert(subject, (now, report));
                }
                _ => {
                    drop(pending);
                    return self.metrics.count_reports_refused(1);
                }
            }
        }
        drop(pending);
        if was_empty {
            self.ready.notify_one();
        }
    }

    /// Everything there is, in order; waits for something until `deadline`. `None` when closed and empty.
    fn take(&self, deadline: Option<Instant>) -> Option<Vec<(SystemTime, Report)>> {
        let mut pending = self.lock();
        loop {
            if !pending.is_empty() {
                let Pending { queue, overflow, .. } = &mut *pending;
                let mut taken = std::mem::take(queue);
                taken.extend(std::mem::take(overflow).into_values());
                return Some(taken);
            }
            if pending.closed {
                return None;
            }
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            pending = match patience {
                Some(Duration::ZERO) => return Some(Vec::new()),
                Some(patience) => {
                    let woken = self.ready.wait_timeout(pending, patience);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.ready.wait(pending).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits for `duration`, or until closed.
    fn pause(&self, duration: Duration) -> bool {
        let pending = self.lock();
        let waited = self
            .ready
            .wait_timeout_while(pending, duration, |pending| !pending.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A vector and a map between two whole operations: whole, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.overflow.is_empty()
    }
}

/// The spool as its thread and the uplink share it.
#[derive(Debug)]
struct SharedSpool {
    spool: Mutex<Spool>,
    backlog: watch::Sender<Backlog>,
    appended: Notify,
}

impl SharedSpool {
    /// Calls `work` with the spool and publishes what is left in it. Blocks on I/O.
    fn with<T>(&self, work: impl FnOnce(&mut Spool) -> T) -> T {
        // Every write of the spool moves its figures after the file: whole, whoever panicked.
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut spool);
        self.backlog.send_replace(spool.backlog());
        result
    }
}

type Encoded = (prost_types::Timestamp, Event, Weight);

/// Writes what the shards report.
struct SpoolWriter {
    intake: Arc<Intake>,
    spool: Arc<SharedSpool>,
    journal: Arc<BindingJournal>,
    traces: CallTraces,
    metrics: Arc<MetricsSet>,
    synced: Instant,
    dirty: bool,
}

impl SpoolWriter {
    fn run(mut self) {
        loop {
            let deadline = self.dirty.then(|| self.synced + SYNC_EVERY);
            let Some(reports) = self.intake.take(deadline) else {
                break;
            };
            for chunk in reports.chunks(CHUNK) {
                self.write(chunk);
            }
            if self.dirty && self.synced.elapsed() >= SYNC_EVERY {
                self.sync();
            }
        }
        self.sync();
    }

    fn write(&mut self, reports: &[(SystemTime, Report)]) {
        let mut changes = Vec::new();
        for (_, report) in reports {
            match report {
                Report::Registration(view) => changes.push(view.clone()),
                Report::Call(call) if call.end().is_some() => {
                    self.metrics.note_call(call);
                    self.traces.record(call);
                }
                Report::Call(_) | Report::AuthenticationFailure { .. } => {}
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.journal.append(&changes, None)
        {
            tracing::error!(%error, "registrations could not be written to disk");
        }
        let encoded: Vec<Encoded> = reports.iter().map(|(time, report)| encode(*time, report)).collect();
        let mut failed = false;
        loop {
            match self.spool.with(|spool| spool.append(&encoded)) {
                Ok(appended) => {
                    self.metrics.count_reports_spooled(appended.accepted);
                    if appended.refused > 0 {
                        self.metrics.count_reports_refused(appended.refused);
                        tracing::error!(refused = appended.refused, "the report spool is full");
                    }
                    break;
                }
                Err(error) => {
                    if !failed {
                        tracing::error!(%error, "reports could not be written to disk; trying again");
                        failed = true;
                    }
                    if self.intake.pause(RETRY) {
                        // Going down, and the disk does not take them.
                        self.metrics.count_reports_refused(encoded.len() as u64);
                        return;
                    }
                }
            }
        }
        self.dirty = true;
        self.spool.appended.notify_one();
    }

    /// Makes what is written survive the machine. Not under the lock: a slow disk must not hold up the uplink.
    fn sync(&mut self) {
        let file: io::Result<File> = self.spool.with(Spool::sync_handle);
        if let Err(error) = file.and_then(|file| file.sync_data()) {
            tracing::warn!(%error, "report spool could not be synced");
        }
        self.synced = Instant::now();
        self.dirty = false;
    }
}

fn encode(time: SystemTime, report: &Report) -> Encoded {
    let (event, weight) = match report {
        Report::Call(call) => {
            let weight = if matches!(call.state, CallState::Ended(_)) {
                Weight::Heavy
            } else {
                Weight::Light
            };
            (Event::Call((&**call).into()), weight)
        }
        Report::Registration(view) => (Event::Registration(view.into()), Weight::Heavy),
        Report::AuthenticationFailure {
            trunk,
            source,
            username,
            reason,
        } => {
            let failure = AuthenticationFailure {
                trunk: trunk.name(),
                source_address: source.to_string(),
                username: username.clone(),
                reason: (*reason).to_owned(),
            };
            (Event::AuthenticationFailure(failure), Weight::Light)
        }
    };
    (time.into(), event, weight)
}

/// Sends what is in the spool.
#[derive(Debug)]
pub struct ReportUplink {
    spool: Arc<SharedSpool>,
    metrics: Arc<MetricsSet>,
}

impl ReportUplink {
    /// What is not stored by the control plane yet.
    pub fn backlog(&self) -> watch::Receiver<Backlog> {
        self.spool.backlog.subscribe()
    }

    /// Sends until `shutdown`, reconnecting as needed, and then for at most 3 s what is left. Cancel it after
    /// [`SpoolThread::finish`].
    pub async fn run(self, link: Link, shutdown: CancellationToken) {
        let mut backlog = self.backlog();
        let flushed = async {
            shutdown.cancelled().await;
            // In time or not: the rest is on disk.
            drop(timeout(FLUSH, backlog.wait_for(|backlog| backlog.reports == 0)).await);
        };
        tokio::select! {
            () = self.send_forever(&link) => {}
            () = flushed => {}
        }
    }

    async fn send_forever(&self, link: &Link) {
        let mut backoff = Backoff::default();
        loop {
            let reason = self.stream(link, &mut backoff).await;
            tracing::debug!(reason, "report stream ended");
            tokio::time::sleep(backoff.delay(rand::random())).await;
        }
    }

    async fn stream(&self, link: &Link, backoff: &mut Backoff) -> String {
        let (outgoing, requests) = mpsc::channel(WINDOW);
        let open = async {
            let channel = link.connect().await.map_err(|error| chain(&error))?;
            let mut client = ReportServiceClient::new(channel).max_encoding_message_size(MAX_MESSAGE);
            let stream = client
                .stream_reports(ReceiverStream::new(requests))
                .await
                .map_err(|status| status.to_string())?;
            Ok::<_, String>(stream.into_inner())
        };
        let mut incoming = match timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => return reason,
            Err(_) => return "no answer in time".into(),
        };
        self.on_spool(|spool| {
            spool.rewind();
            Ok(())
        })
        .await;
        // Boot and last sequence number of the batches that are not acknowledged; all of the same spool.
        let mut in_flight: VecDeque<(Uuid, u64)> = VecDeque::new();
        loop {
            if in_flight.len() < WINDOW {
                let next = self
                    .on_spool(|spool| spool.next_batch(BATCH_REPORTS, BATCH_OCTETS))
                    .await;
                if let Some(Some(Batch { boot, reports })) = next {
                    let last = reports.last().map_or(0, |report| report.sequence);
                    let (spool_id, boot_id) = (boot.to_string(), boot.to_string());
                    if outgoing
                        .send(StreamReportsRequest {
                            spool_id,
                            boot_id,
                            reports,
                        })
                        .await
                        .is_err()
                    {
                        return "the connection broke".into();
                    }
                    in_flight.push_back((boot, last));
                    continue;
                }
            }
            let patience = if in_flight.is_empty() {
                Duration::MAX
            } else {
                ACKNOWLEDGE_TIMEOUT
            };
            tokio::select! {
                biased;
                message = timeout(patience, incoming.message()) => match message {
                    Ok(Ok(Some(StreamReportsResponse { acknowledged_sequence }))) => {
                        backoff.reset();
                        self.acknowledge(&mut in_flight, acknowledged_sequence).await;
                    }
                    Ok(Ok(None)) => return "the control plane closed it".into(),
                    Ok(Err(status)) => return status.to_string(),
                    Err(_) => return "no acknowledgement in time".into(),
                },
                () = self.spool.appended.notified(), if in_flight.len() < WINDOW => {}
            }
        }
    }

    async fn acknowledge(&self, in_flight: &mut VecDeque<(Uuid, u64)>, sequence: u64) {
        let Some((boot, _)) = in_flight.front().copied() else {
            return;
        };
        while in_flight.front().is_some_and(|(_, last)| *last <= sequence) {
            in_flight.pop_front();
        }
        self.on_spool(move |spool| spool.acknowledge(boot, sequence)).await;
        self.metrics.count_report_batches_acknowledged();
    }

    /// Does file work where it may block. A file system that fails is logged; what could not be read now is read on the
    /// next stream.
    async fn on_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let spool = Arc::clone(&self.spool);
        match tokio::task::spawn_blocking(move || spool.with(work)).await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                tracing::error!(%error, "report spool");
                None
            }
            Err(error) => {
                tracing::error!(%error, "report spool");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
