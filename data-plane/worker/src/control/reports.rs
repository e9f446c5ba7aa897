//! Reports on their way to the control plane: from the shards to the spool, from the spool up.
//!
//! ```text
//! shards ── ReportSender ──► Intake (mapped) ── spool thread ──► Spool (disk) ── ReportUplink ──► control plane
//! ```
//!
//! A report is encoded once, where it is made; the rest is copies of its octets, many at a time. A shard never waits: it
//! locks the intake for as long as a copy takes, and from then on the report survives the process. Of several reports of
//! the same call or address of record within a turn of the spool thread the last is kept, because each says everything of
//! its subject. What finds no room anywhere is refused and counted, never dropped silently.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use trunkline_engine::io::Report;
use trunkline_proto::dataplane::v1::report_service_client::ReportServiceClient;
use trunkline_proto::dataplane::v1::{
    AuthenticationFailure, StreamReportsRequest, StreamReportsResponse, WorkerBooted,
};
use trunkline_shared::call::{CallRecord, CallState};
use trunkline_shared::wire;
use uuid::Uuid;

use super::Boot;
use super::backoff::Backoff;
use super::intake::{Entry, Intake, Kind, TICK, Taken};
use super::journal::BindingJournal;
use super::link::{Link, MAX_MESSAGE, chain};
use super::spool::{Backlog, Batch, Limits, Spool, Weight, process_of};
use crate::metrics::MetricsSet;
use crate::trace::CallTraces;

/// What the death of the machine, not of the process, may cost.
const SYNC_EVERY: Duration = Duration::from_millis(250);
/// A disk that refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// Ended calls that wait to be made traces of.
const TRACES: usize = 4096;

/// Reports and octets of one message to the control plane.
const BATCH_REPORTS: usize = 1000;
const BATCH_OCTETS: usize = 512 << 10;
/// Batches sent and not acknowledged.
const WINDOW: usize = 4;
/// A control plane that does not acknowledge for this long gets a new stream.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// At the end of the process the last reports may take this long to be stored; what is not goes up after the next start.
const FLUSH: Duration = Duration::from_secs(3);

/// Opens the spool, takes over what a killed process left, notes that this process began, and starts the spool's thread.
/// Registrations that pass are noted in `journal`, ended calls become spans of `traces`; neither is the shards' time.
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
    let dir = state_dir.join("spool");
    let left = Intake::read(&dir)?;
    let mut spool = Spool::open(&dir, boot.id, limits, left.as_ref())?;
    if let Some(left) = &left {
        let registrations: Vec<&[u8]> = registrations(left.records.entries()).collect();
        tracing::info!(
            octets = left.records.0.len(),
            registrations = registrations.len(),
            "reports of a killed process taken over"
        );
        journal.recover(&registrations)?;
    }
    let booted = WorkerBooted {
        boot_id: boot.id.to_string(),
    }
    .encode_to_vec();
    spool.append(&[Entry::new(Kind::Booted, Weight::Heavy, boot.time, &booted, 0)])?;
    // What was in its files is elsewhere now.
    let (intake, taken) = Intake::create(&dir, boot.id)?;
    let spool = Arc::new(SharedSpool {
        backlog: watch::Sender::new(spool.backlog()),
        spool: Mutex::new(spool),
        appended: Notify::new(),
    });
    let shared = Arc::new(Shared {
        intake,
        traces: traces.is_on().then(Mutex::default),
        metrics: Arc::clone(&metrics),
    });
    let writer = SpoolWriter {
        shared: Arc::clone(&shared),
        spool: Arc::clone(&spool),
        journal,
        traces,
        metrics: Arc::clone(&metrics),
        unsynced: Some(Instant::now()),
    };
    let join = std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || writer.run(taken))?;
    let uplink = ReportUplink { spool, metrics };
    Ok((ReportSender(Arc::clone(&shared)), uplink, SpoolThread { shared, join }))
}

/// Takes reports from the shards; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReportSender(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    intake: Intake,
    /// Calls that are over, when somebody wants their traces.
    traces: Option<Mutex<Vec<CallRecord>>>,
    metrics: Arc<MetricsSet>,
}

impl ReportSender {
    /// Hands a report over that was made at `now`. Never blocks on I/O; see the module for what happens when the spool
    /// cannot keep up.
    pub fn send(&self, now: SystemTime, report: Report) {
        let Shared {
            intake,
            traces,
            metrics,
        } = &*self.0;
        let put = MESSAGE.with_borrow_mut(|message| {
            message.clear();
            let (kind, weight, key) = encode(&report, message);
            intake.put(&Entry::new(kind, weight, now, message, key))
        });
        if put.is_err() {
            metrics.count_reports_refused(1);
        }
        if let Report::Call(call) = report
            && call.end().is_some()
        {
            metrics.note_call(&call);
            if let Some(traces) = traces {
                let mut traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
                if traces.len() < TRACES {
                    traces.push(*call);
                }
            }
        }
    }
}

/// The running spool thread.
#[derive(Debug)]
pub struct SpoolThread {
    shared: Arc<Shared>,
    join: JoinHandle<()>,
}

impl SpoolThread {
    /// Takes no more reports, writes those it has, and waits until they are on disk. Blocks.
    pub fn finish(self) {
        self.shared.intake.close();
        if self.join.join().is_err() {
            tracing::error!("the spool thread panicked");
        }
    }
}

thread_local! {
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends the encoded message of a report; answers its kind, its weight, and how many of its first octets name what it is
/// of.
fn encode(report: &Report, out: &mut Vec<u8>) -> (Kind, Weight, usize) {
    match report {
        Report::Call(call) => {
            let weight = match call.state {
                CallState::Ended(_) => Weight::Heavy,
                CallState::Trying | CallState::Ringing | CallState::Answered => Weight::Light,
            };
            (Kind::Call, weight, wire::encode_call(call, out))
        }
        Report::Registration(view) => (Kind::Registration, Weight::Heavy, wire::encode_aor_bindings(view, out)),
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
            out.extend_from_slice(&failure.encode_to_vec());
            (Kind::AuthenticationFailure, Weight::Light, 0)
        }
    }
}

fn registrations<'a>(entries: impl Iterator<Item = Entry<'a>>) -> impl Iterator<Item = &'a [u8]> {
    entries
        .filter(|entry| entry.kind == Kind::Registration)
        .map(|entry| entry.message)
}

/// Of each subject the last report, where that is; the rest as it is.
fn last_words<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<Entry<'a>> {
    let mut entries: Vec<_> = entries.collect();
    let mut seen = HashSet::with_capacity(entries.len());
    entries.reverse();
    entries.retain(|entry| entry.key.is_empty() || seen.insert((entry.kind, entry.key)));
    entries.reverse();
    entries
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
        self.publish(&mut spool, work)
    }

    /// Does it here and now when it needs no file and nobody else is at it.
    fn try_with<T, W: FnOnce(&mut Spool) -> T>(&self, work: W) -> Result<T, W> {
        let mut spool = match self.spool.try_lock() {
            Ok(spool) => spool,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(work),
        };
        if !spool.reads_from_memory() {
            return Err(work);
        }
        Ok(self.publish(&mut spool, work))
    }

    fn publish<T>(&self, spool: &mut Spool, work: impl FnOnce(&mut Spool) -> T) -> T {
        let result = work(spool);
        let backlog = spool.backlog();
        self.backlog.send_if_modified(|published| {
            let is_other = *published != backlog;
            *published = backlog;
            is_other
        });
        result
    }
}

/// Writes what the shards report.
struct SpoolWriter {
    shared: Arc<Shared>,
    spool: Arc<SharedSpool>,
    journal: Arc<BindingJournal>,
    traces: CallTraces,
    metrics: Arc<MetricsSet>,
    /// Since when something is written that neither the disk nor the control plane has for certain.
    unsynced: Option<Instant>,
}

impl SpoolWriter {
    fn run(mut self, mut taken: Taken) {
        let mut last = Instant::now();
        loop {
            let deadline = self.unsynced.map(|since| since + SYNC_EVERY);
            let Some(next) = self.shared.intake.take(taken, last + TICK, deadline) else {
                break;
            };
            taken = next;
            if !taken.is_empty() {
                last = Instant::now();
                self.write(&taken);
                self.record_traces();
            }
            self.keep_in_step();
        }
        self.sync();
    }

    fn write(&mut self, taken: &Taken) {
        let reports = last_words(taken.entries());
        let changes: Vec<&[u8]> = registrations(reports.iter().copied()).collect();
        if !changes.is_empty()
            && let Err(error) = self.journal.append_encoded(&changes)
        {
            tracing::error!(%error, "registrations could not be written to disk");
        }
        let mut failed = false;
        loop {
            match self.spool.with(|spool| spool.append(&reports)) {
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
                    if self.shared.intake.pause(RETRY) {
                        // Going down, and the disk does not take them.
                        self.metrics.count_reports_refused(reports.len() as u64);
                        return;
                    }
                }
            }
        }
        self.unsynced.get_or_insert_with(Instant::now);
        self.spool.appended.notify_one();
    }

    fn record_traces(&self) {
        let Some(traces) = &self.shared.traces else { return };
        let calls = std::mem::take(&mut *traces.lock().unwrap_or_else(PoisonError::into_inner));
        for call in calls {
            self.traces.record(&call);
        }
    }

    /// Notes what was acknowledged, and syncs what was not for too long.
    fn keep_in_step(&mut self) {
        if let Err(error) = self.spool.with(Spool::clean) {
            tracing::warn!(%error, "acknowledged reports could not be removed from disk");
        }
        if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_EVERY) {
            self.sync();
        }
    }

    /// Makes what is written survive the machine, unless the control plane has it. Not under the lock: a slow disk must not
    /// hold up the uplink.
    fn sync(&mut self) {
        self.unsynced = None;
        let file = self
            .spool
            .with(|spool| (spool.backlog().reports > 0).then(|| spool.sync_handle()));
        if let Some(Err(error)) = file.map(|file| file.and_then(|file| file.sync_data())) {
            tracing::warn!(%error, "report spool could not be synced");
        }
    }
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
        // Spool and last sequence number of the batches that are not acknowledged; all of the same spool.
        let mut in_flight: VecDeque<(Uuid, u64)> = VecDeque::new();
        loop {
            if in_flight.len() < WINDOW {
                let next = self
                    .on_spool(|spool| spool.next_batch(BATCH_REPORTS, BATCH_OCTETS))
                    .await;
                if let Some(Some(Batch { spool, last, reports })) = next {
                    let (spool_id, boot_id) = (spool.to_string(), process_of(spool).to_string());
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
                    in_flight.push_back((spool, last));
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
        let Some((spool_id, _)) = in_flight.front().copied() else {
            return;
        };
        while in_flight.front().is_some_and(|(_, last)| *last <= sequence) {
            in_flight.pop_front();
        }
        self.on_spool(move |spool| spool.acknowledge(spool_id, sequence)).await;
        self.metrics.count_report_batches_acknowledged();
    }

    /// Does file work where it may block, and what needs no file at once. A file system that fails is logged; what could not be read now is read on the
    /// next stream.
    async fn on_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let done = match self.spool.try_with(work) {
            Ok(done) => done,
            Err(work) => {
                let spool = Arc::clone(&self.spool);
                let done = tokio::task::spawn_blocking(move || spool.with(work)).await;
                done.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        };
        done.inspect_err(|error| tracing::error!(%error, "report spool")).ok()
    }
}

#[cfg(test)]
mod tests;
