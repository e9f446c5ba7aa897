//! Puts the parts of the worker together: identity, configuration, threads, streams; serves; drains.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_shared::runtime::drain::Drain;
use trunkline_shared::snapshot::Snapshot;

use crate::control::Boot;
use crate::control::bindings::BindingWatch;
use crate::control::client::{ControlClient, Sources};
use crate::control::configuration::Configuration;
use crate::control::identity::Identity;
use crate::control::journal::BindingJournal;
use crate::control::reports;
use crate::control::spool;
use crate::env::WorkerEnv;
use crate::env::bindings::BindingStore;
use crate::env::budgets::LocalBudgets;
use crate::http::{HttpServer, Readiness};
use crate::metrics::MetricsSet;
use crate::net::connections::Connections;
use crate::net::listener::Reconciler;
use crate::net::tls::TlsTable;
use crate::options::Options;
use crate::relay::RelayThreads;
use crate::relay::pool::PortPool;
use crate::shard::input::Shards;
use crate::shard::{ShardLoad, ShardThread, ShardThreads, SharedParts};
use crate::trace::CallTraces;

/// Listener orders waiting for one shard: a configuration of thousands of trunks arrives at once.
const ORDERS: usize = 4096;
/// How often ended bindings and gone trunks are forgotten.
const UPKEEP: Duration = Duration::from_secs(30);
/// How often the end of the last call is looked for while draining.
const DRAIN_CHECK: Duration = Duration::from_millis(100);

/// Runs the worker until it is told to end.
///
/// # Errors
/// What keeps it from starting: no identity, no state directory, no threads, the metrics address in use.
pub async fn run(options: Options, traces: CallTraces) -> anyhow::Result<()> {
    let boot = Boot::begin();
    let drain = Drain::on_signals(Duration::from_secs(options.drain_seconds)).context("listen for signals")?;
    raise_descriptor_limit();
    let addresses = options.addresses().context("find the address of the default route")?;
    let metrics = Arc::new(MetricsSet::new());
    let http = HttpServer::bind(options.metrics_listen)
        .await
        .context("listen for metrics")?;
    let (configuration, snapshots) = Configuration::load(&options.state_dir)?;
    let identity = tokio::select! {
        identity = Identity::load_or_enroll(&options) => identity?,
        () = drain.begun() => return Ok(()),
    };

    // Shared by the shards.
    let bindings = Arc::new(BindingStore::default());
    let journal = BindingJournal::open(&options.state_dir, Arc::clone(&bindings), SystemTime::now());
    let journal = Arc::new(journal.context("open the copy of the registrations")?);
    let budgets = Arc::new(LocalBudgets::default());
    let ports = Arc::new(PortPool::new(options.media_ports.clone(), addresses.clone()));
    let (reports, uplink, spool) = reports::start_spool(
        &options.state_dir,
        boot,
        spool::Limits::default(),
        Arc::clone(&journal),
        traces,
        Arc::clone(&metrics),
    )
    .context("open the report spool")?;
    let env = WorkerEnv::new(
        Arc::clone(&bindings),
        Arc::clone(&budgets),
        Arc::clone(&ports),
        Arc::clone(&metrics),
    );

    // Threads: media, then the shards that command it, then the listeners that feed them.
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (shards, inboxes) = Shards::new(options.shards.unwrap_or(cores));
    let media_threads = options.media_threads.unwrap_or(cores);
    let media = RelayThreads::start(options.media_tier, media_threads, &ports, &shards).context("start media")?;
    let tls = Arc::new(TlsTable::default());
    let (orders, order_queues): (Vec<_>, Vec<_>) = inboxes.iter().map(|_| mpsc::channel(ORDERS)).unzip();
    let (reconciler, listeners) = Reconciler::new(addresses, orders, Arc::clone(&tls), Arc::clone(&budgets));
    let connections = Arc::new(Connections::default());
    let (draining, draining_watch) = watch::channel(false);
    let stop_shards = CancellationToken::new();
    let parts = SharedParts {
        worker: identity.worker().clone(),
        shards: shards.clone(),
        connections: Arc::clone(&connections),
        env: Arc::new(env),
        tls,
        relay: media.relay(),
        reports: reports.clone(),
        snapshots: snapshots.clone(),
        listeners: listeners.clone(),
        draining: draining_watch.clone(),
        stop: stop_shards.clone(),
    };
    let each = inboxes
        .into_iter()
        .zip(order_queues)
        .map(|(inbox, orders)| ShardThread { inbox, orders })
        .collect();
    let shard_threads = ShardThreads::start(&parts, each).context("start shards")?;
    let load = shard_threads.load();
    drop(parts);

    // Gauges others keep.
    metrics.watch_relay(media.relay());
    metrics.watch_listeners(listeners.clone());
    metrics.watch_spool(uplink.backlog());
    watch_gauges(&metrics, &load, &connections, &ports, &bindings);

    // Tasks of the control thread.
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let flushed = CancellationToken::new();
    let link = identity.link();
    let worker = identity.worker().clone();
    let active = load.clone();
    let sources = Sources {
        boot,
        listeners: listeners.clone(),
        media_tier: media.relay().tier(),
        shards,
        active_calls: Arc::new(move || active.calls()),
        metrics: Arc::clone(&metrics),
    };
    tasks.spawn(configuration.writer().run(Arc::clone(&metrics), stop.clone()));
    tasks.spawn(ControlClient::new(link.clone(), configuration, sources).run(stop.clone()));
    tasks.spawn(identity.keep_renewed(stop.clone()));
    tasks.spawn(
        BindingWatch::new(worker.clone(), Arc::clone(&bindings), journal, reports).run(link.clone(), stop.clone()),
    );
    tasks.spawn(uplink.run(link, flushed.clone()));
    tasks.spawn(until(stop.clone(), reconciler.run(snapshots.clone())));
    tasks.spawn(until(
        stop.clone(),
        keep_up(snapshots.clone(), bindings, budgets, connections),
    ));
    let readiness = Readiness {
        snapshots,
        draining: draining_watch,
    };
    tracing::info!(%worker, boot = %boot.id, metrics = %http.local(), "worker started");
    let stop_http = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = http.run(metrics, readiness, stop_http).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    tasks.close();

    drain.begun().await;
    tracing::info!(calls = load.calls(), "draining");
    draining.send_replace(true);
    tokio::select! {
        () = until_no_calls(&load) => {}
        () = drain.expired() => tracing::warn!(calls = load.calls(), "calls are cut"),
    }
    // Shards first: what they still report has to reach the spool, and the spool the disk, before the streams end.
    stop_shards.cancel();
    let ended = tokio::task::spawn_blocking(move || {
        shard_threads.join();
        media.stop();
        spool.finish();
    });
    ended.await.context("end the threads")?;
    flushed.cancel();
    stop.cancel();
    tasks.wait().await;
    tracing::info!("worker ended");
    Ok(())
}

/// A call has four media sockets and a phone a connection; the usual soft limit of 1024 descriptors is for programs that use
/// `select`, which this one does not. The hard limit is the administrator's word.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, limit = ?limit.current, "the number of open files stays limited");
    }
}

/// Runs `work` until it ends or `stop` says so.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn until_no_calls(load: &ShardLoad) {
    while load.calls() > 0 {
        tokio::time::sleep(DRAIN_CHECK).await;
    }
}

/// Forgets what has ended: bindings, budgets and connections of trunks that are gone.
async fn keep_up(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    bindings: Arc<BindingStore>,
    budgets: Arc<LocalBudgets>,
    connections: Arc<Connections>,
) {
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        // The empty snapshot of a worker that has never been configured says nothing about what is gone.
        if snapshot.revision() > 0 {
            bindings.purge(SystemTime::now(), |trunk| snapshot.trunk(trunk).is_some());
            budgets.retain(|trunk| snapshot.trunk(trunk).is_some());
            connections.close_unless(|trunk| snapshot.trunk(trunk).is_some());
        }
        connections.forget_unreachable(Instant::now());
        if let Ok(Err(_)) = tokio::time::timeout(UPKEEP, snapshots.changed()).await {
            return;
        }
    }
}

fn watch_gauges(
    metrics: &MetricsSet,
    load: &ShardLoad,
    connections: &Arc<Connections>,
    ports: &Arc<PortPool>,
    bindings: &Arc<BindingStore>,
) {
    let (calls, transactions) = (load.clone(), load.clone());
    let (connections, ports, bindings) = (Arc::clone(connections), Arc::clone(ports), Arc::clone(bindings));
    metrics.watch_gauge("active_calls", "Calls that are not over", move || calls.calls() as i64);
    metrics.watch_gauge("sip_transactions", "Live SIP transactions", move || {
        transactions.transactions() as i64
    });
    metrics.watch_gauge("sip_connections", "TCP and TLS connections", move || {
        connections.len() as i64
    });
    metrics.watch_gauge("media_ports_leased", "Pairs of media ports in use", move || {
        ports.leased() as i64
    });
    let registered = move || bindings.registered(SystemTime::now()) as i64;
    metrics.watch_gauge("registrations", "Addresses of record with a live binding", registered);
}
