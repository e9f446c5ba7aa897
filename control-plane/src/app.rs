//! Puts the parts together: open, serve, drain.

mod http;
mod live;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tracing::{error, info, info_span, warn};
use trunkline_proto::dataplane::v1::{
    binding_service_server::BindingServiceServer, configuration_service_server::ConfigurationServiceServer,
    enrollment_service_server::EnrollmentServiceServer, report_service_server::ReportServiceServer,
};

use crate::{
    grpc,
    identity::{
        AuthLayer, Authority, AuthorityError, BootstrapError, Enrollment, ServerCertificate, ServerTlsError,
        TrunkCertificates, accept, api_config, ensure_admin_token, ensure_join_token_file,
        files::{create_private_dir, write_public},
        worker_config,
    },
    ingest::{BindingStreams, Reports, Upkeep},
    metrics::Metrics,
    options::Options,
    store::{KeyFile, SecretError, Store, StoreError},
    stream::{CatalogueSource, ConfigurationStreams, Fleet},
};
use live::LiveState;

/// A peer whose machine froze is noticed by this, on every connection (HTTP/2 PING).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Octets a peer may send before it hears of us: some batches of reports, which would otherwise come in portions of 64 KiB.
const WINDOW: u32 = 1 << 20;
/// Requests one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 256;
/// A hello lists what the worker holds: some 60 octets each for 100,000 resources and more.
const MAX_FROM_WORKER: usize = 32 * 1024 * 1024;

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be made.
    #[error("create the state directory {}", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] SecretError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The managed authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The listeners have no certificate.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// A token file cannot be written.
    #[error(transparent)]
    Token(#[from] BootstrapError),
    /// The copy of the CA certificate cannot be written.
    #[error("write the CA certificate to {}", path.display())]
    CaFile {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("listen on {address} for {purpose}")]
    Listen {
        /// What for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Plain text was asked for on an address others can reach.
    #[error("--insecure-plaintext-api needs a loopback address, not {0}")]
    PlaintextApi(SocketAddr),
}

/// The running control plane.
#[derive(Debug)]
pub struct App {
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the data-plane port.
    pub worker: SocketAddr,
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
    store: Store,
    fleet: Fleet,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl App {
    /// Opens the state, makes what is missing on first start, and serves.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        if options.insecure_plaintext_api && !options.api_listen.ip().is_loopback() {
            return Err(StartError::PlaintextApi(options.api_listen));
        }
        let state_dir = &options.state_dir;
        create_private_dir(state_dir).map_err(|source| StartError::StateDir {
            path: state_dir.clone(),
            source,
        })?;
        let store = Store::open(
            &state_dir.join("control.db"),
            KeyFile::open_or_create(&options.key_file())?,
        )
        .await?;
        let now = SystemTime::now();
        let authority = Arc::new(Authority::load_or_create(state_dir, now)?);
        let certificate = Arc::new(ServerCertificate::issue(
            &authority,
            hostname().as_deref(),
            &options.api_san,
            now,
        )?);
        ensure_admin_token(&store, &state_dir.join("admin.token")).await?;
        if let Some(path) = &options.ca_file {
            write_public(path, authority.certificate_pem().as_bytes()).map_err(|source| StartError::CaFile {
                path: path.clone(),
                source,
            })?;
        }
        if let Some(path) = &options.join_token_file {
            ensure_join_token_file(&store, path).await?;
        }

        let api = listen("the API", options.api_listen).await?;
        let worker = listen("workers", options.worker_listen).await?;
        let http = listen("metrics", options.metrics_listen).await?;

        let metrics = Metrics::new();
        let certificates = TrunkCertificates::new(Arc::clone(&authority), options.trunk_address.clone());
        let source = CatalogueSource::open(store.clone(), certificates, metrics.clone()).await?;
        let fleet = Fleet::open(&store, source.subscribe(), options.limits, metrics.clone()).await?;
        let active = store.active_calls().await;
        metrics.calls_active.set(i64::try_from(active).unwrap_or(i64::MAX));

        let app = Self {
            api: api.1,
            worker: worker.1,
            metrics: http.1,
            store: store.clone(),
            fleet: fleet.clone(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        app.spawn("follow the store", source.run(app.stop.clone()));
        let upkeep = Upkeep {
            store: store.clone(),
            fleet: fleet.clone(),
            authority: Arc::clone(&authority),
            certificate: Arc::clone(&certificate),
            join_token_file: options.join_token_file.clone(),
        };
        app.spawn("upkeep", upkeep.run(app.stop.clone()));

        let live = LiveState {
            store: store.clone(),
            fleet: fleet.clone(),
        };
        let tls = if options.insecure_plaintext_api {
            None
        } else {
            Some(api_config(Arc::clone(&certificate))?)
        };
        let routes = grpc::routes(grpc::State {
            store: store.clone(),
            live: Arc::new(live),
        })
        .await;
        let serve_api = server()
            .layer(AuthLayer::new(store.clone(), metrics.clone()))
            .add_routes(routes)
            .serve_with_incoming_shutdown(accept(api.0, tls, app.stop.clone()), app.stopped());
        app.spawn_server("the API", serve_api);

        let enrollment = Enrollment::new(
            store.clone(),
            Arc::clone(&authority),
            options.worker_certificate_validity(),
        );
        let streams = ConfigurationStreams::new(store.clone(), fleet.clone(), app.stop.clone(), app.tasks.clone());
        let reports = Reports::new(store.clone(), fleet, app.stop.clone(), app.tasks.clone());
        let watchers = BindingStreams::new(store.clone(), app.stop.clone(), app.tasks.clone());
        let tls = worker_config(certificate, &authority)?;
        let serve_workers = server()
            .add_service(EnrollmentServiceServer::new(enrollment))
            .add_service(ConfigurationServiceServer::new(streams).max_decoding_message_size(MAX_FROM_WORKER))
            .add_service(ReportServiceServer::new(reports).max_decoding_message_size(MAX_FROM_WORKER))
            .add_service(BindingServiceServer::new(watchers))
            .serve_with_incoming_shutdown(accept(worker.0, Some(tls), app.stop.clone()), app.stopped());
        app.spawn_server("workers", serve_workers);

        app.spawn("metrics", http::serve(http.0, metrics, store, app.stop.clone()));
        info!(api = %app.api, workers = %app.worker, metrics = %app.metrics, "control plane is up");
        Ok(app)
    }

    /// Takes nothing new, ends the streams with a clear status, waits for what is under way until `patience` is over,
    /// and closes the store.
    pub async fn stop(self, patience: impl Future<Output = ()>) {
        info!("draining");
        self.stop.cancel();
        self.store.close_call_watches();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = patience => warn!(left = self.tasks.len(), "not everything ended in time"),
        }
        if let Err(error) = self.fleet.persist(&self.store).await {
            error!(
                error = &error as &dyn std::error::Error,
                "store the state of the workers"
            );
        }
        if let Err(error) = self.store.settle().await {
            // The next start reads the log.
            error!(error = &error as &dyn std::error::Error, "write reports to the tables");
        }
        self.store.close().await;
        info!("stopped");
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            task.await;
            if !stop.is_cancelled() {
                // None of them ends by itself: going on without one would be worse than a restart.
                error!(task = name, "a task ended unexpectedly; going down");
                stop.cancel();
            }
        });
    }

    fn spawn_server<E>(&self, name: &'static str, server: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: std::error::Error + 'static,
    {
        self.spawn(name, async move {
            if let Err(error) = server.await {
                error!(server = name, error = &error as &dyn std::error::Error, "serve");
            }
        });
    }

    /// Done when the control plane goes down: asked to, or because a part of it failed.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .trace_fn(|request| info_span!("grpc", method = request.uri().path()))
}

async fn listen(purpose: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        purpose,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The host's name, when the system tells it.
fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
