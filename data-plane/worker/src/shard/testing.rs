//! What a shard needs around it, for tests: all of it real but the control plane.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trunkline_engine::io::Listener;
use trunkline_shared::acl::AccessList;
use trunkline_shared::name::{TrunkId, WorkerId};
use trunkline_shared::snapshot::{Body, Resource, Snapshot};
use trunkline_shared::tls::TlsIdentity;
use trunkline_shared::trunk::{Transport, Trunk};

use super::input::{Input, Shards};
use super::{Dispatcher, ShardThread, ShardThreads, SharedParts};
use crate::control::Boot;
use crate::control::journal::BindingJournal;
use crate::control::reports::{self, ReportUplink, SpoolThread};
use crate::control::spool::Limits;
use crate::env::WorkerEnv;
use crate::env::bindings::BindingStore;
use crate::env::budgets::LocalBudgets;
use crate::metrics::MetricsSet;
use crate::net::address::{Address, AddressBook};
use crate::net::listener::{ListenerReport, Reconciler};
use crate::relay::pool::PortPool;
use crate::relay::{RelayThreads, TierChoice};
use crate::trace::CallTraces;

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The parts of a worker without its shards.
pub(crate) struct Surroundings {
    pub(crate) parts: SharedParts,
    pub(crate) inboxes: Vec<mpsc::Receiver<Input>>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) budgets: Arc<LocalBudgets>,
    threads: Option<(RelayThreads, SpoolThread)>,
    _listeners: watch::Sender<ListenerReport>,
    _draining: watch::Sender<bool>,
    _uplink: ReportUplink,
    _dir: TempDir,
}

impl Surroundings {
    /// Those of `shards` shards with a configuration.
    pub(crate) fn new(shards: usize, snapshot: Snapshot) -> Surroundings {
        let dir = tempfile::tempdir().expect("a directory");
        let metrics = Arc::new(MetricsSet::new());
        let bindings = Arc::new(BindingStore::default());
        let journal = BindingJournal::open(dir.path(), Arc::clone(&bindings), SystemTime::now()).expect("a journal");
        let (reports, uplink, spool) = reports::start_spool(
            dir.path(),
            Boot::begin(),
            Limits::default(),
            Arc::new(journal),
            CallTraces::new(None),
            Arc::clone(&metrics),
        )
        .expect("a spool");
        let ports = Arc::new(PortPool::new(45_000..=45_099, AddressBook::default()));
        let budgets = Arc::new(LocalBudgets::default());
        let env = WorkerEnv::new(bindings, Arc::clone(&budgets), Arc::clone(&ports), metrics);
        let (shards, inboxes) = Shards::new(NonZeroUsize::new(shards).expect("a shard"));
        let media = RelayThreads::start(TierChoice::Auto, NonZeroUsize::MIN, &ports, &shards).expect("a media thread");
        let (snapshots, snapshots_watch) = watch::channel(Arc::new(snapshot));
        let (listeners, listeners_watch) = watch::channel(ListenerReport::default());
        let (draining, draining_watch) = watch::channel(false);
        let parts = SharedParts {
            worker: WorkerId::new("worker-1").expect("an id"),
            shards,
            connections: Arc::default(),
            env: Arc::new(env),
            tls: Arc::default(),
            relay: media.relay(),
            reports,
            snapshots: snapshots_watch,
            listeners: listeners_watch,
            draining: draining_watch,
            stop: CancellationToken::new(),
        };
        Surroundings {
            parts,
            inboxes,
            snapshots,
            budgets,
            threads: Some((media, spool)),
            _listeners: listeners,
            _draining: draining,
            _uplink: uplink,
            _dir: dir,
        }
    }

    /// Shard 0 on this thread, without tasks, with these listeners in force.
    pub(crate) fn dispatcher(&self, listeners: Vec<Listener>) -> Dispatcher {
        let dispatcher = Dispatcher::new(0, self.parts.clone(), [0; 32], Arc::default());
        let snapshot = Arc::clone(&self.parts.snapshots.borrow());
        dispatcher.drive(|engine, now, _| {
            engine.set_snapshot(now, snapshot);
            engine.set_listeners(listeners.into());
        });
        dispatcher
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let (media, spool) = self.threads.take().expect("dropped once");
        media.stop();
        spool.finish();
    }
}

/// A worker: two shards and their listeners.
pub(crate) struct World {
    pub(crate) surroundings: Surroundings,
    pub(crate) reports: watch::Receiver<ListenerReport>,
    shards: Option<ShardThreads>,
    reconciler: JoinHandle<()>,
}

impl World {
    /// Starts on a loopback address of its own, so that tests do not share ports.
    pub(crate) fn start(address: &str, snapshot: Snapshot) -> World {
        let mut surroundings = Surroundings::new(2, snapshot);
        let address = Address::plain(address.parse().expect("an address"));
        let (orders, queues): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(16)).unzip();
        let (reconciler, reports) = Reconciler::new(
            AddressBook::new(vec![address]),
            orders,
            Arc::clone(&surroundings.parts.tls),
            Arc::clone(&surroundings.budgets),
        );
        surroundings.parts.listeners = reports.clone();
        let inboxes = std::mem::take(&mut surroundings.inboxes);
        let each = inboxes.into_iter().zip(queues);
        let each = each.map(|(inbox, orders)| ShardThread { inbox, orders }).collect();
        let shards = ShardThreads::start(&surroundings.parts, each).expect("threads");
        let reconciler = tokio::spawn(reconciler.run(surroundings.parts.snapshots.clone()));
        World {
            surroundings,
            reports,
            shards: Some(shards),
            reconciler,
        }
    }

    /// Puts a configuration in force and gives the listeners' next report.
    pub(crate) async fn configure(&mut self, snapshot: Snapshot) -> ListenerReport {
        self.reports.mark_unchanged();
        self.surroundings.snapshots.send_replace(Arc::new(snapshot));
        self.next_report().await
    }

    /// The next report that differs from the last.
    pub(crate) async fn next_report(&mut self) -> ListenerReport {
        let changed = tokio::time::timeout(PATIENCE, self.reports.changed());
        changed.await.expect("a report in time").expect("the reconciler runs");
        self.reports.borrow_and_update().clone()
    }

    /// Waits until so many listeners are bound.
    pub(crate) async fn bound(&mut self, count: usize) {
        let there = self.reports.wait_for(|report| report.listeners.len() == count);
        let there = tokio::time::timeout(PATIENCE, there).await;
        drop(there.expect("listeners in time").expect("the reconciler runs"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.reconciler.abort();
        self.surroundings.parts.stop.cancel();
        self.shards.take().expect("dropped once").join();
    }
}

/// A trunk that lets everybody in.
pub(crate) fn trunk(id: &str, transport: Transport, port: u16) -> Trunk {
    let mut trunk = Trunk::with_defaults(TrunkId::new(id).expect("an id"), id);
    trunk.acl = AccessList::new(true, true, Vec::new(), Vec::new());
    trunk.transport = transport;
    trunk.listen_port = port;
    trunk
}

/// A configuration of these trunks and certificates.
pub(crate) fn snapshot(revision: i64, trunks: Vec<Trunk>, identities: Vec<TlsIdentity>) -> Snapshot {
    let trunks = trunks.into_iter().map(|trunk| Body::Trunk(Arc::new(trunk)));
    let identities = identities
        .into_iter()
        .map(|identity| Body::TlsIdentity(Arc::new(identity)));
    let resources = trunks.chain(identities).map(|body| Resource {
        version: revision,
        body,
    });
    let applied = Snapshot::default().apply(resources.collect(), &[], revision);
    assert!(applied.rejections.is_empty(), "{:?}", applied.rejections);
    applied.snapshot
}

/// An OPTIONS for the worker itself, which it answers with 200.
pub(crate) fn options(transport: &str, to: &str, call_id: &str) -> String {
    format!(
        "OPTIONS sip:{to} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} 127.0.0.1:5999;branch=z9hG4bK-{call_id};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:probe@127.0.0.1>;tag=1\r\n\
         To: <sip:{to}>\r\n\
         Call-ID: {call_id}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}
