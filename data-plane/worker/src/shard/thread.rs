//! The threads of the shards, and what they are started with.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use hashbrown::HashMap;
use rand::rngs::StdRng;
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use trunkline_engine::{Engine, EngineConfig, Gauges};
use trunkline_shared::name::WorkerId;
use trunkline_shared::snapshot::Snapshot;

use super::input::{Input, Shards};
use super::{Dispatcher, Shard};
use crate::control::reports::ReportSender;
use crate::env::WorkerEnv;
use crate::net::connections::Connections;
use crate::net::listener::{ListenerOrder, ListenerReport};
use crate::net::tls::TlsTable;
use crate::relay::Relay;

/// Inputs handled before other tasks of the thread get their turn.
const BURST: usize = 64;

/// What every shard gets.
#[derive(Clone)]
pub struct SharedParts {
    /// This worker.
    pub worker: WorkerId,
    /// Queues of all shards.
    pub shards: Shards,
    /// All connections.
    pub connections: Arc<Connections>,
    /// Bindings, budgets, ports, metrics.
    pub env: Arc<WorkerEnv>,
    /// TLS of the trunks.
    pub tls: Arc<TlsTable>,
    /// The media threads.
    pub relay: Relay,
    /// Where reports go.
    pub reports: ReportSender,
    /// Configuration in force.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Listeners in force.
    pub listeners: watch::Receiver<ListenerReport>,
    /// True while the process is being ended: new work is refused.
    pub draining: watch::Receiver<bool>,
    /// Ends the threads.
    pub stop: CancellationToken,
}

/// What a shard follows.
#[derive(Clone)]
pub(super) struct Watches {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    listeners: watch::Receiver<ListenerReport>,
    draining: watch::Receiver<bool>,
}

/// What one shard gets besides.
pub struct ShardThread {
    /// Its inputs.
    pub inbox: mpsc::Receiver<Input>,
    /// Its listeners.
    pub orders: mpsc::Receiver<ListenerOrder>,
}

/// What a shard holds, readable by others.
#[derive(Debug, Default)]
pub(super) struct ShardGauges {
    active_calls: AtomicUsize,
    transactions: AtomicUsize,
}

impl ShardGauges {
    pub(super) fn set(&self, gauges: Gauges) {
        self.active_calls
            .store(gauges.active_calls + gauges.ending_calls, Ordering::Relaxed);
        self.transactions.store(gauges.transactions, Ordering::Relaxed);
    }
}

/// Running shards.
pub struct ShardThreads {
    joins: Vec<JoinHandle<()>>,
    gauges: Vec<Arc<ShardGauges>>,
}

/// What all shards hold; cheap to clone.
#[derive(Clone)]
pub struct ShardLoad(Arc<[Arc<ShardGauges>]>);

impl ShardLoad {
    /// Calls that are not over, or whose records are not written.
    pub fn calls(&self) -> usize {
        self.0
            .iter()
            .map(|gauges| gauges.active_calls.load(Ordering::Relaxed))
            .sum()
    }

    /// Live transactions.
    pub fn transactions(&self) -> usize {
        self.0
            .iter()
            .map(|gauges| gauges.transactions.load(Ordering::Relaxed))
            .sum()
    }
}

impl ShardThreads {
    /// Starts a thread per element of `each`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(parts: &SharedParts, each: Vec<ShardThread>) -> io::Result<ShardThreads> {
        let token_key: [u8; 32] = rand::random();
        let mut joins = Vec::new();
        let mut gauges = Vec::new();
        for (index, thread) in each.into_iter().enumerate() {
            let held = Arc::new(ShardGauges::default());
            gauges.push(Arc::clone(&held));
            let parts = parts.clone();
            let builder = std::thread::Builder::new().name(format!("shard-{index}"));
            joins.push(builder.spawn(move || run(index, parts, thread, token_key, held))?);
        }
        Ok(ShardThreads { joins, gauges })
    }

    /// What the shards hold.
    pub fn load(&self) -> ShardLoad {
        ShardLoad(self.gauges.iter().cloned().collect())
    }

    /// Waits for the threads to end.
    pub fn join(self) {
        for join in self.joins {
            if join.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
    }
}

fn run(index: usize, parts: SharedParts, thread: ShardThread, token_key: [u8; 32], gauges: Arc<ShardGauges>) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "shard has no runtime"),
    };
    let stop = parts.stop.clone();
    let dispatcher = Dispatcher::new(index, parts, token_key, gauges);
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        spawn_local(dispatcher.clone().follow());
        spawn_local(dispatcher.clone().run_relay_backlog());
        spawn_local(dispatcher.clone().run_timers());
        spawn_local(dispatcher.clone().run_listeners(thread.orders));
        spawn_local(dispatcher.clone().run_inbox(thread.inbox));
        stop.cancelled().await;
    });
    drop(local);
    // A name that is still being looked up is no reason to stay.
    runtime.shutdown_background();
}

impl Dispatcher {
    /// The shard `index`, without any task yet.
    pub(super) fn new(index: usize, parts: SharedParts, token_key: [u8; 32], gauges: Arc<ShardGauges>) -> Dispatcher {
        let config = EngineConfig::new(index as u16, parts.worker, token_key);
        let rng: StdRng = rand::make_rng();
        let snapshot = Arc::clone(&parts.snapshots.borrow());
        Dispatcher(Rc::new(Shard {
            index,
            engine: RefCell::new(Engine::new(config, Box::new(rng))),
            relay_backlog: RefCell::new((0..parts.relay.threads()).map(|_| VecDeque::new()).collect()),
            relay_waits: Notify::new(),
            resolves: Arc::default(),
            snapshot: RefCell::new(snapshot),
            world: Watches {
                snapshots: parts.snapshots,
                listeners: parts.listeners,
                draining: parts.draining,
            },
            sockets: RefCell::new(HashMap::new()),
            timer: Notify::new(),
            armed: Cell::new(None),
            started: Instant::now(),
            shards: parts.shards,
            connections: parts.connections,
            env: parts.env,
            tls: parts.tls,
            relay: parts.relay,
            reports: parts.reports,
            gauges,
        }))
    }

    /// Puts configuration, listeners and drain in force as they change.
    async fn follow(self) {
        let mut world = self.0.world.clone();
        loop {
            // Seen before they are read: what changes in between is a change again.
            world.snapshots.mark_unchanged();
            world.listeners.mark_unchanged();
            world.draining.mark_unchanged();
            self.catch_up();
            let changed = tokio::select! {
                changed = world.snapshots.changed() => changed,
                changed = world.listeners.changed() => changed,
                changed = world.draining.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Puts configuration, listeners and drain in force as they are now.
    pub(super) fn catch_up(&self) {
        let world = &self.0.world;
        let snapshot = Arc::clone(&world.snapshots.borrow());
        let listeners = Arc::clone(&world.listeners.borrow().listeners);
        let drain = *world.draining.borrow() || snapshot.settings().drain;
        *self.0.snapshot.borrow_mut() = Arc::clone(&snapshot);
        self.drive(|engine, now, _| {
            engine.set_snapshot(now, snapshot);
            engine.set_listeners(listeners);
            engine.drain(drain);
        });
    }

    /// Handles what comes from other threads.
    async fn run_inbox(self, mut inbox: mpsc::Receiver<Input>) {
        let mut batch = Vec::with_capacity(BURST);
        loop {
            if inbox.recv_many(&mut batch, BURST).await == 0 {
                return;
            }
            batch.drain(..).for_each(|input| self.input(input));
        }
    }
}
