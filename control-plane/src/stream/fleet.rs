//! The workers as they are now: their sessions, what they say of themselves, and the commands to them.
//!
//! One lock per worker, held for one event or one look; nothing is locked across an await, and no lock is shared by
//! two streams except the map of workers, which is touched when a stream opens.

mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trunkline_proto::dataplane::v1::{Hello, WorkerHeartbeat, WorkerStatus};

pub use view::WorkerState;

use super::{
    catalogue::{Catalogue, Key},
    session::{Limits, Parked, Session},
};
use crate::{
    metrics::{CommandLabels, Metrics},
    store::{
        Store, StoreError, now_ms,
        worker::{self, Rejection, WorkerGreeting},
    },
};

/// Commands waiting for a stream to take them.
const COMMAND_QUEUE: usize = 64;
/// A worker answers a command within this, or it is given up.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// `last_seen_time` in the store lags by no more than this.
const SEEN_INTERVAL_MS: i64 = 60_000;

/// All workers; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workers: Mutex<HashMap<String, Arc<Slot>>>,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    limits: Limits,
    metrics: Metrics,
    /// Something worth storing soon happened.
    unsaved: Notify,
}

/// One worker; outlives its streams.
#[derive(Debug)]
pub struct Slot {
    id: String,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    /// The running stream, or the last one.
    session: Option<Session>,
    link: Option<Link>,
    next_link: u64,
    boot_id: String,
    hello: Option<Hello>,
    status: WorkerStatus,
    last_seen_ms: Option<i64>,
    applied_revision: i64,
    active_calls: u32,
    /// Refused by the process with `boot_id`; the session has its own while there is one.
    parked: BTreeMap<Key, Parked>,
    saved: Saved,
}

/// What the store knows.
#[derive(Debug, Default, PartialEq)]
struct Saved {
    hello: bool,
    parked: BTreeMap<Key, Parked>,
    last_seen_ms: i64,
    applied_revision: i64,
}

/// The open stream of a worker.
#[derive(Debug)]
struct Link {
    number: u64,
    superseded: CancellationToken,
    commands: mpsc::Sender<PendingCommand>,
}

/// A command on its way to a stream.
#[derive(Debug)]
pub struct PendingCommand {
    /// Conversation id of the call to end.
    pub call: String,
    /// Takes the worker's answer.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// What a stream needs of the fleet; [`Fleet::detach`] gives it back.
#[derive(Debug)]
pub struct Attachment {
    /// The worker.
    pub slot: Arc<Slot>,
    /// Cancelled when a newer stream of the same worker takes over.
    pub superseded: CancellationToken,
    /// Commands to pass on.
    pub commands: mpsc::Receiver<PendingCommand>,
    number: u64,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The worker has no open stream, or it ended before the answer, or its queue is full.
    #[error("the worker is not connected")]
    Away,
    /// It did not answer in time.
    #[error("the worker did not answer in time")]
    TimedOut,
    /// It refused; its token, e.g. `NOT_FOUND`.
    #[error("the worker refused: {0}")]
    Refused(String),
}

impl Fleet {
    /// The enrolled workers of `store`, none of them connected yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        store: &Store,
        catalogue: watch::Receiver<Arc<Catalogue>>,
        limits: Limits,
        metrics: Metrics,
    ) -> Result<Self, StoreError> {
        let mut workers = HashMap::new();
        let mut view = store.read().await?;
        for (id, ..) in worker::drain_flags(view.conn()).await? {
            let Some(record) = worker::find(view.conn(), &id).await? else {
                continue;
            };
            let parked: BTreeMap<_, _> = worker::rejections(view.conn(), &id)
                .await?
                .iter()
                .filter_map(parked_from_store)
                .collect();
            let live = Live {
                boot_id: record.boot_id,
                last_seen_ms: record.last_seen_time,
                applied_revision: record.applied_revision,
                saved: Saved {
                    hello: true,
                    parked: parked.clone(),
                    last_seen_ms: record.last_seen_time.unwrap_or(0),
                    applied_revision: record.applied_revision,
                },
                parked,
                ..Live::default()
            };
            workers.insert(
                id.clone(),
                Arc::new(Slot {
                    id,
                    live: Mutex::new(live),
                }),
            );
        }
        Ok(Self {
            inner: Arc::new(Inner {
                workers: Mutex::new(workers),
                catalogue,
                limits,
                metrics,
                unsaved: Notify::new(),
            }),
        })
    }

    /// A stream of this worker opened with `hello`. A stream it had before is told that it was superseded.
    pub fn attach(&self, id: &str, hello: Hello, now: Instant) -> Attachment {
        let slot = {
            let mut workers = lock(&self.inner.workers);
            let slot = workers.entry(id.to_owned()).or_insert_with(|| {
                Arc::new(Slot {
                    id: id.to_owned(),
                    live: Mutex::default(),
                })
            });
            Arc::clone(slot)
        };
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let superseded = CancellationToken::new();
        let mut live = slot.lock();
        let same_process = live.boot_id == hello.boot_id;
        let parked = live
            .session
            .take()
            .map_or_else(|| live.parked.clone(), |session| session.parked().clone());
        // Another process may be another program, which accepts what the old one refused.
        let parked = if same_process { parked } else { BTreeMap::new() };
        let settings_name = worker::resource_name(id);
        let mut session = Session::new(settings_name, self.inner.limits, self.catalogue(), parked, now);
        session.handle_hello(&hello.store_id, &hello.held, now);
        live.next_link += 1;
        let number = live.next_link;
        let link = Link {
            number,
            superseded: superseded.clone(),
            commands: sender,
        };
        match live.link.replace(link) {
            Some(old) => old.superseded.cancel(),
            None => drop(self.inner.metrics.workers_connected.inc()),
        }
        live.session = Some(session);
        live.boot_id.clone_from(&hello.boot_id);
        live.hello = Some(Hello {
            held: Vec::new(),
            ..hello
        });
        live.status = WorkerStatus::default();
        live.last_seen_ms = Some(now_ms());
        live.saved.hello = false;
        drop(live);
        self.inner.unsaved.notify_one();
        Attachment {
            slot,
            superseded,
            commands,
            number,
        }
    }

    /// The stream ended. What the worker held and refused stays known.
    pub fn detach(&self, attachment: &Attachment) {
        let mut live = attachment.slot.lock();
        if live.link.as_ref().is_some_and(|link| link.number == attachment.number) {
            live.link = None;
            live.active_calls = 0;
            self.inner.metrics.workers_connected.dec();
        }
    }

    /// Ends a call (conversation id) on a worker and waits for the worker's answer.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn hang_up(&self, id: &str, call: &str) -> Result<(), CommandError> {
        let outcome = self.command(id, call).await;
        let outcome_label = match &outcome {
            Ok(()) => "done",
            Err(CommandError::Away) => "unavailable",
            Err(CommandError::TimedOut) => "timeout",
            Err(CommandError::Refused(_)) => "refused",
        };
        self.inner
            .metrics
            .commands
            .get_or_create(&CommandLabels { outcome: outcome_label })
            .inc();
        outcome
    }

    async fn command(&self, id: &str, call: &str) -> Result<(), CommandError> {
        let slot = lock(&self.inner.workers).get(id).cloned().ok_or(CommandError::Away)?;
        let commands = slot
            .lock()
            .link
            .as_ref()
            .map(|link| link.commands.clone())
            .ok_or(CommandError::Away)?;
        let (reply, answer) = oneshot::channel();
        commands
            .try_send(PendingCommand {
                call: call.to_owned(),
                reply,
            })
            .map_err(|_| CommandError::Away)?;
        match timeout(COMMAND_TIMEOUT, answer).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err(CommandError::Refused(reason)),
            Ok(Err(_)) => Err(CommandError::Away),
            Err(_) => Err(CommandError::TimedOut),
        }
    }

    /// Forgets a worker that was deleted. Its stream ends when the catalogue no longer holds its settings.
    pub fn forget(&self, id: &str) {
        if lock(&self.inner.workers).remove(id).is_some() {
            info!(worker = id, "worker forgotten");
        }
    }

    /// Waits until something is worth storing soon: a worker came, or refused a resource.
    pub async fn unsaved(&self) {
        self.inner.unsaved.notified().await;
    }

    /// A worker refused a resource.
    pub fn note_refusal(&self) {
        self.inner.unsaved.notify_one();
    }

    /// Stores what changed of the workers since the last time.
    ///
    /// # Errors
    /// When the store cannot be written; the changes are kept for the next time.
    pub async fn persist(&self, store: &Store) -> Result<(), StoreError> {
        let slots: Vec<Arc<Slot>> = lock(&self.inner.workers).values().cloned().collect();
        let changed: Vec<(Arc<Slot>, Changed)> = slots
            .into_iter()
            .filter_map(|slot| Some((Arc::clone(&slot), slot.lock().changed()?)))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let mut tx = store.write().await?;
        for (slot, changed) in &changed {
            // Deleted meanwhile: there is nothing to keep.
            if worker::find(tx.conn(), &slot.id).await?.is_none() {
                continue;
            }
            if let Some(hello) = &changed.hello {
                let greeting = WorkerGreeting {
                    hostname: &hello.hostname,
                    software_version: &hello.software_version,
                    media_tier: &hello.media_tier,
                    boot_id: &hello.boot_id,
                    boot_time: hello.boot_time.map(milliseconds),
                };
                worker::greet(&mut tx, &slot.id, &greeting).await?;
            }
            worker::seen(
                &mut tx,
                &slot.id,
                changed.saved.last_seen_ms,
                changed.saved.applied_revision,
            )
            .await?;
            let rejections: Vec<Rejection> = changed.saved.parked.iter().map(parked_to_store).collect();
            worker::put_rejections(&mut tx, &slot.id, &rejections).await?;
        }
        tx.commit().await?;
        for (slot, changed) in changed {
            slot.lock().saved = changed.saved;
        }
        Ok(())
    }

    /// The catalogue now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.inner.catalogue.borrow())
    }

    /// The catalogue now and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Catalogue>> {
        self.inner.catalogue.clone()
    }

    /// Times and sizes of streams.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

impl Attachment {
    /// Runs `event` on the session, unless a newer stream has replaced it.
    pub fn with_session<T>(&self, event: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut live = self.slot.lock();
        if live.link.as_ref().is_none_or(|link| link.number != self.number) {
            return None;
        }
        live.session.as_mut().map(event)
    }

    /// The worker was heard of.
    pub fn heard(&self) {
        self.slot.lock().last_seen_ms = Some(now_ms());
    }

    /// The worker's own count.
    pub fn heartbeat(&self, heartbeat: &WorkerHeartbeat) {
        let mut live = self.slot.lock();
        live.applied_revision = heartbeat.revision;
        live.active_calls = heartbeat.active_calls;
    }

    /// The worker has this revision in force.
    pub fn applied(&self, revision: i64) {
        let mut live = self.slot.lock();
        live.applied_revision = live.applied_revision.max(revision);
    }

    /// The worker's listeners, whole.
    pub fn status(&self, status: WorkerStatus) {
        for listener in status.listeners.iter().filter(|listener| !listener.bound) {
            warn!(
                worker = self.slot.id,
                trunk = listener.trunk,
                code = listener.error_code,
                "a listener is not bound"
            );
        }
        self.slot.lock().status = status;
    }

    /// Worker id.
    pub fn worker(&self) -> &str {
        &self.slot.id
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }
}

struct Changed {
    hello: Option<Hello>,
    saved: Saved,
}

impl Live {
    fn changed(&self) -> Option<Changed> {
        let parked = self.session.as_ref().map_or(&self.parked, Session::parked);
        let last_seen_ms = self.last_seen_ms.unwrap_or(0);
        let stale = last_seen_ms - self.saved.last_seen_ms >= SEEN_INTERVAL_MS;
        let hello = self.hello.clone().filter(|_| !self.saved.hello);
        if hello.is_none() && !stale && *parked == self.saved.parked {
            return None;
        }
        let saved = Saved {
            hello: true,
            parked: parked.clone(),
            last_seen_ms,
            applied_revision: self.applied_revision,
        };
        Some(Changed { hello, saved })
    }
}

/// A panic while a lock was held would be a bug; the values stay whole, so others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parked_from_store(rejection: &Rejection) -> Option<(Key, Parked)> {
    let key = trunkline_proto::dataplane::v1::ResourceKey {
        r#type: rejection.kind,
        name: rejection.name.clone(),
    };
    let parked = Parked {
        version: rejection.version,
        error: rejection.error.clone(),
        time_ms: rejection.time_ms,
    };
    Some((Key::from_wire(&key)?, parked))
}

fn parked_to_store((key, parked): (&Key, &Parked)) -> Rejection {
    Rejection {
        kind: key.kind().to_wire() as i32,
        name: key.name().to_owned(),
        version: parked.version,
        error: parked.error.clone(),
        time_ms: parked.time_ms,
    }
}

fn milliseconds(timestamp: prost_types::Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(timestamp.nanos) / 1_000_000)
}
