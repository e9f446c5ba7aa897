//! What workers report: logged at once, in the tables a little later.
//!
//! ```text
//! batch ──► report_log (one statement, durable) ──► acknowledged, shown to watchers, pending in memory
//!                                                      └─ settle ──► calls, registrations … (many rows a transaction)
//! ```
//!
//! A refresh of a registration or a step of a call costs a row with seven indexes when it is written by itself; most are
//! replaced within the minute. So only the last word on each is written to the tables, when enough has come together or
//! when somebody wants to read them ([`Store::read_settled`]), and then the log is emptied. A control plane that died
//! reads the log at its next start.

mod pending;
mod scan;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prost::{Message as _, bytes::Bytes};
use tokio::sync::{OwnedMutexGuard, broadcast};
use tracing::{info, warn};
use trunkline_proto::{dataplane::v1::StreamReportsRequest, v1};

use self::{
    pending::{Pending, Source, decode, of_worker},
    scan::{Event, Scanned},
};
use super::{ReadTx, Store, StoreError, call, registration, report};

/// The tables are at most this far behind. Phones refresh within minutes, calls end within minutes: at 2,000 refreshes a
/// second of 10,000 phones a refresh cost 290 µs when each was a transaction's row, and costs 1 µs in the tables with this.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Octets of reports in memory, and in the log: what a start has to read again, at some 100 MB a second.
const MAX_PENDING: usize = 16 << 20;
const MAX_LOG: usize = 64 << 20;
/// Changes a watcher of calls may fall behind before it has to start again: some seconds of a busy installation.
const CALL_CHANGES: usize = 4096;
/// Batches a watcher of registrations may fall behind before it reads the table.
const BINDING_NEWS: usize = 64;

/// A call, and how it stands now.
type CallChange = Arc<v1::Call>;

/// News for those who follow the registrations.
#[derive(Debug, Clone)]
pub(crate) enum BindingNews {
    /// Encoded `AorBindings` that a worker (its id) reported, each newer than what was known.
    Reported(Arc<str>, Arc<[Bytes]>),
    /// Everything told so far is in the table, at or below this revision.
    Settled(i64),
    /// The table was changed by somebody else.
    Changed,
}

/// What became of a batch of reports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Everything of the spool up to here is stored.
    pub(crate) sequence: u64,
    /// Kinds of the reports that are new, with how many there were.
    pub(crate) kinds: Vec<(&'static str, u64)>,
    /// Reports that had been stored before.
    pub(crate) repeated: u64,
    /// Numbers the spool skipped.
    pub(crate) missing: u64,
    /// Active calls of all workers now.
    pub(crate) active_calls: usize,
}

/// The part of the store that is behind.
pub(super) struct Behind {
    state: Arc<tokio::sync::Mutex<State>>,
    /// `None` once the watches are closed.
    call_changes: Mutex<Option<broadcast::Sender<CallChange>>>,
    binding_news: broadcast::Sender<BindingNews>,
}

#[derive(Debug, Default)]
struct State {
    /// Last sequence number logged of each spool, by worker and spool, where it is not in the table.
    cursors: HashMap<(Arc<str>, String), u64>,
    pending: Pending,
    /// Being written to the tables, with the last row of the log that is in it.
    settling: Option<(Pending, i64)>,
    /// Last row of the log.
    logged: i64,
    /// Everything up to this row of the log is in the tables.
    settled: i64,
    /// Octets logged since.
    log_octets: usize,
    since: Option<Instant>,
    /// Active calls.
    active: HashSet<u128>,
}

/// Everything reported is in the tables, and nothing is taken in while this is held.
pub(crate) struct Held<'a> {
    store: &'a Store,
    _state: OwnedMutexGuard<State>,
}

impl Held<'_> {
    /// Tells those who follow the registrations that the table was changed.
    pub(crate) fn registrations_changed(&self) {
        // Nobody is watching when this fails.
        drop(self.store.inner.behind.binding_news.send(BindingNews::Changed));
    }
}

impl Behind {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::default(),
            call_changes: Mutex::new(Some(broadcast::Sender::new(CALL_CHANGES))),
            binding_news: broadcast::Sender::new(BINDING_NEWS),
        }
    }

    fn call_changes(&self) -> Option<broadcast::Sender<CallChange>> {
        let changes = self.call_changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.clone()
    }
}

impl Store {
    /// Reads the log that an earlier process left. To be called once, before anything is reported.
    pub(super) async fn replay_log(&self) -> Result<(), StoreError> {
        let mut state = self.inner.behind.state.lock().await;
        let mut view = self.read().await?;
        state.active = call::active_ids(view.conn()).await?.into_iter().collect();
        let mut after = 0;
        loop {
            let rows = report::logged_after(view.conn(), after).await?;
            let Some((last, ..)) = rows.last() else { break };
            after = *last;
            for (_, worker, message) in rows {
                let worker: Arc<str> = worker.into();
                let Some(batch) = decode::<StreamReportsRequest>("log", &message) else {
                    continue;
                };
                let mut sequence = 0;
                let mut events = Vec::with_capacity(batch.reports.len());
                for scanned in batch.reports.iter().filter_map(|report| scan::report(report).ok()) {
                    sequence = sequence.max(scanned.sequence);
                    events.push(scanned);
                }
                let source = Source {
                    worker: Arc::clone(&worker),
                    boot_id: batch.boot_id.into(),
                };
                state.take(&source, events, &|_| true);
                let cursor = state.cursors.entry((worker, batch.spool_id)).or_default();
                *cursor = sequence.max(*cursor);
            }
        }
        if after > 0 {
            info!(rows = after - state.settled, "reports read from the log");
            state.since = Some(Instant::now());
        }
        state.logged = after;
        drop((view, state));
        self.settle().await
    }

    /// Stores reports of a worker: those of `spool` that are newer than what is stored of it. `is_known` tells the trunks
    /// (`trunks/{trunk}`) there are.
    ///
    /// # Errors
    /// When the store cannot be written; then nothing of the batch counts.
    pub(crate) async fn take_reports(
        &self,
        worker: &str,
        mut batch: StreamReportsRequest,
        is_known: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Taken, StoreError> {
        let mut state = self.inner.behind.state.lock().await;
        let source = Source {
            worker: worker.into(),
            boot_id: batch.boot_id.as_str().into(),
        };
        let key = (Arc::clone(&source.worker), batch.spool_id.clone());
        let stored = match state.cursors.get(&key) {
            Some(stored) => *stored,
            None => {
                let mut view = self.read().await?;
                report::cursor(view.conn(), worker, &batch.spool_id).await?
            }
        };
        let mut taken = Taken {
            sequence: stored,
            ..Taken::default()
        };
        let mut events = Vec::with_capacity(batch.reports.len());
        batch
            .reports
            .retain(|report| taken.look_at(worker, report, &mut events));
        if !events.is_empty() {
            let message = batch.encode_to_vec();
            report::log(&self.inner.writer, state.logged + 1, worker, &message).await?;
            state.logged += 1;
            state.log_octets += message.len();
            state.since.get_or_insert_with(Instant::now);
            let booted = events
                .iter()
                .any(|scanned| matches!(scanned.event, Ok(Event::Booted(_))));
            self.show_calls(worker, &events);
            let bindings = state.take(&source, events, is_known);
            if !bindings.is_empty() && self.inner.behind.binding_news.receiver_count() > 0 {
                let news = BindingNews::Reported(Arc::clone(&source.worker), bindings.into());
                // Nobody is watching when this fails.
                drop(self.inner.behind.binding_news.send(news));
            }
            let moved_on = if booted {
                // Calls of the process before have ended; whoever watches is to see it now.
                state.settle(self).await
            } else if state.is_full() || state.settling.is_some() {
                state.step(self).await
            } else {
                Ok(())
            };
            if let Err(error) = moved_on {
                // Tried again; the reports are safe.
                warn!(error = &error as &dyn std::error::Error, "write reports to the tables");
            }
        }
        state.cursors.insert(key, taken.sequence);
        taken.active_calls = state.active.len();
        Ok(taken)
    }

    /// Writes what was reported before this was called to the tables.
    ///
    /// # Errors
    /// When the store cannot be written; what is left is tried again.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let mut goal = None;
        loop {
            // Taken anew each time: reports come in between two transactions.
            let mut state = self.inner.behind.state.lock().await;
            if state.settled >= *goal.get_or_insert(state.logged) {
                return Ok(());
            }
            state.step(self).await?;
        }
    }

    /// Does it when it is time; for a regular call.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub(crate) async fn settle_if_due(&self) -> Result<(), StoreError> {
        let is_due = {
            let state = self.inner.behind.state.lock().await;
            let is_old = state.since.is_some_and(|since| since.elapsed() >= MAX_AGE);
            is_old || state.is_full() || state.settling.is_some()
        };
        if is_due { self.settle().await } else { Ok(()) }
    }

    /// Settles, and keeps reports out until the guard is dropped.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub(crate) async fn hold_settled(&self) -> Result<Held<'_>, StoreError> {
        let mut state = Arc::clone(&self.inner.behind.state).lock_owned().await;
        state.settle(self).await?;
        Ok(Held {
            store: self,
            _state: state,
        })
    }

    /// A view that shows everything that was reported before.
    ///
    /// # Errors
    /// As [`Self::settle`] and [`Self::read`].
    pub async fn read_settled(&self) -> Result<ReadTx, StoreError> {
        self.settle().await?;
        self.read().await
    }

    /// The active calls now and every change from here on, without a gap between the two. Once closed, the changes end at
    /// once.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub(crate) async fn watch_calls(&self) -> Result<(Vec<CallChange>, broadcast::Receiver<CallChange>), StoreError> {
        let held = self.hold_settled().await?;
        let mut view = self.read().await?;
        let active = call::active(view.conn()).await?.into_iter().map(Arc::new).collect();
        let changes = match self.inner.behind.call_changes() {
            Some(changes) => changes.subscribe(),
            None => broadcast::Sender::new(1).subscribe(),
        };
        drop(held);
        Ok((active, changes))
    }

    /// Ends every watch of calls: the control plane is going down.
    pub(crate) fn close_call_watches(&self) {
        let behind = &self.inner.behind;
        *behind.call_changes.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Number of active calls.
    pub(crate) async fn active_calls(&self) -> usize {
        self.inner.behind.state.lock().await.active.len()
    }

    /// News of the registrations from here on.
    pub(crate) fn binding_news(&self) -> broadcast::Receiver<BindingNews> {
        self.inner.behind.binding_news.subscribe()
    }

    fn show_calls(&self, worker: &str, events: &[Scanned]) {
        let Some(changes) = self.inner.behind.call_changes() else {
            return;
        };
        if changes.receiver_count() == 0 {
            return;
        }
        for scanned in events {
            if let Ok(Event::Call { message, .. }) = &scanned.event
                && let Some(call) = decode::<v1::Call>("call", message)
            {
                // Nobody is watching when this fails.
                drop(changes.send(Arc::new(of_worker(call, worker))));
            }
        }
    }
}

impl Taken {
    /// Looks at one report of a batch; false when it was stored before.
    fn look_at(&mut self, worker: &str, report: &Bytes, events: &mut Vec<Scanned>) -> bool {
        let scanned = match scan::report(report) {
            Ok(scanned) => scanned,
            Err(error) => {
                // Sent again it would make no more sense. It has no number: the next one says that one is missing.
                warn!(
                    worker,
                    error = &error as &dyn std::error::Error,
                    "a report that cannot be read"
                );
                return false;
            }
        };
        if scanned.sequence <= self.sequence {
            self.repeated += 1;
            return false;
        }
        self.missing += scanned.sequence - self.sequence - 1;
        self.sequence = scanned.sequence;
        match &scanned.event {
            Ok(event) => {
                let kind = event.kind();
                match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
                    Some((_, count)) => *count += 1,
                    None => self.kinds.push((kind, 1)),
                }
            }
            Err(error) => warn!(worker, sequence = scanned.sequence, %error, "a report that makes no sense"),
        }
        events.push(scanned);
        true
    }
}

impl State {
    /// Takes events that are logged; answers the bindings to be told to the workers.
    fn take(&mut self, source: &Source, events: Vec<Scanned>, is_known: &dyn Fn(&str) -> bool) -> Vec<Bytes> {
        let mut bindings = Vec::new();
        for Scanned { time_ms, event, .. } in events {
            let Ok(event) = event else { continue };
            match &event {
                Event::Call { id, ended: true, .. } => drop(self.active.remove(id)),
                Event::Call { id, ended: false, .. } => drop(self.active.insert(*id)),
                _ => {}
            }
            bindings.extend(self.pending.take(source, time_ms, event, is_known));
        }
        bindings
    }

    fn is_full(&self) -> bool {
        self.pending.octets() >= MAX_PENDING || self.log_octets >= MAX_LOG
    }

    async fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        while self.settled < self.logged {
            self.step(store).await?;
        }
        Ok(())
    }

    /// One transaction towards the tables.
    async fn step(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.settling.is_none() {
            self.settling = Some((std::mem::take(&mut self.pending), self.logged));
            (self.log_octets, self.since) = (0, None);
        }
        let Some((settling, until)) = &mut self.settling else {
            return Ok(());
        };
        if let Some(chunk) = settling.chunk() {
            let written = async {
                let mut tx = store.write().await?;
                chunk.write(&mut tx).await?;
                tx.commit().await
            };
            return written.await.map(drop).inspect_err(|_| settling.put_back(chunk));
        }
        let until = *until;
        let mut tx = store.write().await?;
        let mut lost = Vec::new();
        for (worker, boot_id) in &settling.booted {
            lost.extend(call::end_lost(&mut tx, worker, boot_id).await?);
        }
        for ((worker, spool), sequence) in &self.cursors {
            report::set_cursor(&mut tx, worker, spool, *sequence).await?;
        }
        report::forget_log(&mut tx, until).await?;
        let (revision, _) = registration::revision(tx.conn()).await?;
        let active = call::active_ids(tx.conn()).await?;
        tx.commit().await?;
        self.settling = None;
        self.settled = until;
        self.active = active.into_iter().collect();
        for (id, ended) in self.pending.calls() {
            if ended {
                self.active.remove(&id);
            } else {
                self.active.insert(id);
            }
        }
        self.cursors.clear();
        // Nobody is watching when these fail.
        drop(store.inner.behind.binding_news.send(BindingNews::Settled(revision)));
        if let Some(changes) = store.inner.behind.call_changes() {
            for call in lost {
                drop(changes.send(Arc::new(call)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
