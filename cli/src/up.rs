//! `trunkline up`: a control plane and a worker as child processes, configured over the API.

mod banner;
mod children;
mod ports;
mod ready;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;
use trunkline_proto::v1::{GetTrunkRequest, TrunkStatus};

use crate::api::Api;
use crate::check;
use crate::examples::{self, Placement, Sample};
use crate::options::{AccessOptions, CheckOptions, UpOptions};
use crate::state::{Endpoints, State};

use children::{Child, Children};

/// A process that is not ready after this is in trouble: a first start makes keys, certificates and tables.
const READY: Duration = Duration::from_secs(60);
/// Longest wait for the listeners of the sample trunks, once the worker is ready.
const BOUND: Duration = Duration::from_secs(30);

/// Everything from the first lock to the last child stopped.
///
/// # Errors
/// Something did not start, a child ended by itself, or the check failed. All children have ended then.
pub async fn run(options: &UpOptions) -> Result<()> {
    let state = State::new(&options.state_dir);
    let _lock = state.lock()?;
    let endpoints = endpoints(options);
    let mut interrupted = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let children = Children::default();
    let outcome = tokio::select! {
        outcome = serve(options, &state, &endpoints, &children) => outcome,
        failed = children.failure() => Err(failed),
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    };
    let stopped = children.stop().await;
    outcome.and(stopped)
}

/// Returns when there is nothing more to do; normally it does not return.
async fn serve(options: &UpOptions, state: &State, endpoints: &Endpoints, children: &Children) -> Result<()> {
    let worker_listen = loopback(options.worker_port);
    ports::require_free(&[
        ("API (--api-port)", endpoints.api),
        ("workers (--worker-port)", worker_listen),
        (
            "control plane metrics (--control-metrics-port)",
            endpoints.control_metrics,
        ),
        ("worker metrics (--worker-metrics-port)", endpoints.worker_metrics),
    ])?;
    children.start(control(options, state, endpoints, worker_listen))?;
    ready::wait("control plane", endpoints.control_metrics, READY).await?;
    let api = Api::connect(state, &endpoints.api.into()).await?;

    let samples = if options.no_examples {
        Vec::new()
    } else {
        let placement = Placement {
            udp_port: options.sip_port,
            tls_port: options.tls_port,
            admit: Some(options.sip_address),
        };
        examples::apply(&api, state, &placement).await?
    };
    for sample in &samples {
        ports::require_free_listener(sample.protocol, SocketAddr::new(options.sip_address, sample.port))?;
    }
    children.start(worker(options, state, endpoints, worker_listen))?;
    ready::wait("worker", endpoints.worker_metrics, READY).await?;
    for sample in &samples {
        wait_bound(&api, sample).await?;
    }
    state.write_endpoints(endpoints)?;
    print!("{}", banner::text(options, state, endpoints, &samples));

    if options.check {
        check::run(&CheckOptions {
            access: AccessOptions::local(&options.state_dir),
            sip: None,
            tls: None,
            udp_only: false,
            talk: options.talk,
        })
        .await?;
    }
    if !options.exit {
        println!("\nRunning; Ctrl-C stops.");
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn endpoints(options: &UpOptions) -> Endpoints {
    Endpoints {
        api: loopback(options.api_port),
        control_metrics: loopback(options.control_metrics_port),
        worker_metrics: loopback(options.worker_metrics_port),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn control(options: &UpOptions, state: &State, endpoints: &Endpoints, worker_listen: SocketAddr) -> Child {
    Child::new("control", "trunkline-control", state, options.verbose)
        .argument("--state-dir", state.control_dir().display())
        .argument("--api-listen", endpoints.api)
        .argument("--worker-listen", worker_listen)
        .argument("--metrics-listen", endpoints.control_metrics)
        .argument("--trunk-address", options.sip_address)
        .argument("--join-token-file", state.join_token_file().display())
}

fn worker(options: &UpOptions, state: &State, endpoints: &Endpoints, worker_listen: SocketAddr) -> Child {
    Child::new("worker", "trunkline-worker", state, options.verbose)
        .argument("--control", format_args!("https://{worker_listen}"))
        .argument("--ca-file", state.ca_file().display())
        .argument("--join-token-file", state.join_token_file().display())
        .argument("--state-dir", state.worker_dir().display())
        .argument("--sip-address", options.sip_address)
        .argument("--media-ports", &options.media_ports)
        .argument("--metrics-listen", endpoints.worker_metrics)
}

/// Waits until a worker has bound the listener of a sample trunk.
async fn wait_bound(api: &Api, sample: &Sample) -> Result<()> {
    let mut last = TrunkStatus::default();
    let bound = async {
        let mut again = ready::poll_interval();
        loop {
            again.tick().await;
            let request = GetTrunkRequest { name: sample.name() };
            match api.trunks().get_trunk(request).await {
                Ok(response) => {
                    last = response
                        .into_inner()
                        .trunk
                        .and_then(|trunk| trunk.status)
                        .unwrap_or_default()
                }
                Err(status) if status.code() == Code::Unavailable => continue,
                Err(status) => return Err(status),
            }
            if !last.listeners.is_empty() && last.listeners.iter().all(|listener| listener.bound) {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(BOUND, bound).await {
        Ok(outcome) => outcome.with_context(|| format!("ask for the status of {}", sample.name())),
        Err(_) => bail!(
            "{} is not listening after {} s: {}",
            sample.name(),
            BOUND.as_secs(),
            describe(&last)
        ),
    }
}

fn describe(status: &TrunkStatus) -> String {
    let failed = status
        .listeners
        .iter()
        .filter(|listener| !listener.bound)
        .map(|listener| {
            let error = listener
                .error
                .as_ref()
                .map_or("no reason given", |error| error.text.as_str());
            format!("{}: {error}", listener.address)
        });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        "no worker has reported it".into()
    } else {
        failed.join("; ")
    }
}
