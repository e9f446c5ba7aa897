//! A control plane and its workers as processes of this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use trunkline_proto::v1::SyncState;

use crate::api::Api;
use crate::eventually::{BOUND, eventually};
use crate::http;
use crate::process::{Process, binary};

/// Set it to look at logs, stores and captures after a test.
const KEEP: &str = "TRUNKLINE_KEEP_STATE";
const API_PORT: u16 = 8443;
const WORKER_PORT: u16 = 8444;
const METRICS_PORT: u16 = 9464;
/// A worker lets calls end for this long when it is asked to end; tests hang up first.
const DRAIN_SECONDS: &str = "2";

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Workers.
    pub workers: usize,
    /// Signalling shards of each.
    pub shards: usize,
    /// Media threads of each.
    pub media_threads: usize,
    /// How they receive and send media: `auto`, or the name of a tier.
    pub media_tier: &'static str,
    /// Media ports of each, `first-last`.
    pub media_ports: String,
    /// Address of the first worker, the others follow; loopback addresses of the cluster's own when `None`.
    pub sip: Option<Ipv4Addr>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workers: 1,
            shards: 2,
            media_threads: 1,
            media_tier: "auto",
            // Clear of the system's ephemeral ports and of what the phones of the tests use.
            media_ports: "16384-19999".to_owned(),
            sip: None,
        }
    }
}

/// A running cluster. Every part has loopback addresses of its own, so that ports never collide.
#[derive(Debug)]
pub struct Cluster {
    setup: Setup,
    host: u8,
    control: Option<Process>,
    workers: Vec<Worker>,
    /// Logs of processes that were killed or ended, to be looked through at the end.
    logs: Vec<PathBuf>,
    /// Goes last: the processes show their logs when a test fails.
    dir: TempDir,
}

#[derive(Debug)]
struct Worker {
    process: Option<Process>,
}

/// Clusters of this process so far.
static STARTED: AtomicU8 = AtomicU8::new(0);

impl Cluster {
    /// A control plane and one worker, in step.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start() -> Result<Self> {
        Self::with_workers(1).await
    }

    /// A control plane and so many workers, in step.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn with_workers(workers: usize) -> Result<Self> {
        Self::with(Setup {
            workers,
            ..Setup::default()
        })
        .await
    }

    /// A control plane and workers as asked for, in step.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn with(setup: Setup) -> Result<Self> {
        let count = setup.workers;
        let mut dir = tempfile::Builder::new()
            .prefix("trunkline-")
            .tempdir()
            .context("make a state directory")?;
        if std::env::var_os(KEEP).is_some() {
            dir.disable_cleanup(true);
            println!("state is kept in {}", dir.path().display());
        }
        let host = STARTED.fetch_add(1, Ordering::Relaxed);
        let mut cluster = Self {
            setup,
            dir,
            host,
            control: None,
            workers: Vec::new(),
            logs: Vec::new(),
        };
        cluster.workers.resize_with(count, || Worker { process: None });
        cluster.start_control().await?;
        for index in 0..count {
            cluster.start_worker(index).await?;
        }
        for index in 0..count {
            cluster.synced(index).await?;
        }
        Ok(cluster)
    }

    /// The API.
    ///
    /// # Errors
    /// When the control plane has never been up.
    pub fn api(&self) -> Result<Api> {
        Api::new(SocketAddr::new(self.control_ip(), API_PORT), &self.control_dir())
    }

    /// Address of the API.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.control_ip(), API_PORT)
    }

    /// State directory of the control plane.
    pub fn control_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// The cluster's directory: a place for what the test writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Address phones reach a worker at.
    pub fn sip(&self, worker: usize) -> IpAddr {
        let [low, high] = worker_octets();
        let index = u8::try_from(worker).expect("a handful of workers");
        if let Some(first) = self.setup.sip {
            return Ipv4Addr::from_bits(first.to_bits() + u32::from(index)).into();
        }
        Ipv4Addr::new(127, 100 + index, high.wrapping_add(self.host), low).into()
    }

    /// Address of a worker's /metrics.
    pub fn worker_metrics(&self, worker: usize) -> SocketAddr {
        SocketAddr::new(self.sip(worker), METRICS_PORT)
    }

    /// Name of a worker in the API.
    pub fn worker_name(&self, worker: usize) -> String {
        format!("workers/{}", worker_id(worker))
    }

    /// Process id of the control plane, while it runs.
    pub fn control_process(&self) -> Option<u32> {
        self.control.as_ref().map(Process::id)
    }

    /// Process id of a worker, while it runs.
    pub fn worker_process(&self, index: usize) -> Option<u32> {
        self.workers[index].process.as_ref().map(Process::id)
    }

    /// Starts the control plane and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub async fn start_control(&mut self) -> Result<()> {
        ensure!(self.control.is_none(), "the control plane runs");
        let ip = self.control_ip();
        let mut command = Command::new(binary("trunkline-control")?);
        command.arg("--state-dir").arg(self.control_dir());
        command.arg("--join-token-file").arg(self.join_token());
        for (option, port) in [
            ("--api-listen", API_PORT),
            ("--worker-listen", WORKER_PORT),
            ("--metrics-listen", METRICS_PORT),
        ] {
            command.arg(option).arg(SocketAddr::new(ip, port).to_string());
        }
        command.arg("--api-san").arg(ip.to_string());
        let addresses: Vec<_> = (0..self.workers.len())
            .map(|index| self.sip(index).to_string())
            .collect();
        command.arg("--trunk-address").arg(addresses.join(","));
        let log = self.dir.path().join("control.log");
        self.control = Some(Process::start("trunkline-control", &mut command, &log)?);
        self.note_log(log);
        ready(
            self.control.as_mut().expect("just started"),
            SocketAddr::new(ip, METRICS_PORT),
        )
        .await
    }

    /// Starts a worker and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub async fn start_worker(&mut self, index: usize) -> Result<()> {
        ensure!(self.workers[index].process.is_none(), "the worker runs");
        let name = worker_id(index);
        let mut command = Command::new(binary("trunkline-worker")?);
        command
            .arg("--control")
            .arg(format!("https://{}", SocketAddr::new(self.control_ip(), WORKER_PORT)));
        command.arg("--ca-file").arg(self.control_dir().join("ca.pem"));
        command.arg("--join-token-file").arg(self.join_token());
        command.arg("--state-dir").arg(self.dir.path().join(&name));
        command.args(["--worker-id", &name, "--sip-address", &self.sip(index).to_string()]);
        command.args(["--media-ports", &self.setup.media_ports]);
        command.args(["--shards", &self.setup.shards.to_string()]);
        command.args(["--media-threads", &self.setup.media_threads.to_string()]);
        command.args(["--media-tier", self.setup.media_tier]);
        command.args(["--metrics-listen", &self.worker_metrics(index).to_string()]);
        command.args(["--drain-seconds", DRAIN_SECONDS]);
        let log = self.dir.path().join(format!("{name}.log"));
        let metrics = self.worker_metrics(index);
        self.note_log(log.clone());
        let process = self.workers[index]
            .process
            .insert(Process::start(&name, &mut command, &log)?);
        ready(process, metrics).await
    }

    /// kill -9 of the control plane.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_control(&mut self) -> Result<()> {
        self.control.take().context("the control plane does not run")?.kill()
    }

    /// kill -9 of a worker.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_worker(&mut self, index: usize) -> Result<()> {
        self.workers[index]
            .process
            .take()
            .context("the worker does not run")?
            .kill()
    }

    /// Removes the configuration that a killed worker has kept: it gets all of it anew.
    ///
    /// # Errors
    /// When it runs, or has kept none.
    pub fn forget_configuration(&self, index: usize) -> Result<()> {
        ensure!(self.workers[index].process.is_none(), "the worker runs");
        let file = self.dir.path().join(worker_id(index)).join("configuration");
        std::fs::remove_file(file).context("remove a worker's configuration")
    }

    /// Ends the control plane in good order.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop_control(&mut self) -> Result<()> {
        self.control
            .take()
            .context("the control plane does not run")?
            .terminate(BOUND)
            .await
    }

    /// Waits until a worker has all of the present configuration in force.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn synced(&self, index: usize) -> Result<()> {
        self.synced_within(index, BOUND).await
    }

    /// The same for a configuration that takes its time.
    ///
    /// # Errors
    /// When that does not happen within `bound`.
    pub async fn synced_within(&self, index: usize, bound: Duration) -> Result<()> {
        let api = self.api()?;
        let name = self.worker_name(index);
        eventually(&format!("{name} to be in step"), bound, async || {
            let worker = api.worker(&name).await?;
            ensure!(worker.connected, "not connected");
            ensure!(
                worker.sync_state() == SyncState::Synced,
                "{:?}: {:?}",
                worker.sync_state(),
                worker.resources
            );
            ensure!(
                worker.applied_revision == worker.current_revision,
                "at {} of {}",
                worker.applied_revision,
                worker.current_revision
            );
            Ok(())
        })
        .await
    }

    /// Ends everything in good order and looks through the logs.
    ///
    /// # Errors
    /// When a process does not end with status 0, or a log holds an error.
    pub async fn finish(mut self) -> Result<()> {
        for worker in &mut self.workers {
            if let Some(process) = worker.process.as_mut() {
                process.terminate(BOUND).await?;
            }
        }
        if let Some(control) = self.control.as_mut() {
            control.terminate(BOUND).await?;
        }
        for path in &self.logs {
            let log = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
            let errors: Vec<_> = log.lines().filter(|line| is_error(line)).collect();
            if !errors.is_empty() {
                bail!("errors in {}:\n{}", path.display(), errors.join("\n"));
            }
        }
        Ok(())
    }

    fn note_log(&mut self, log: PathBuf) {
        if !self.logs.contains(&log) {
            self.logs.push(log);
        }
    }

    fn control_ip(&self) -> IpAddr {
        let [low, high] = worker_octets();
        Ipv4Addr::new(127, 99, high.wrapping_add(self.host), low).into()
    }

    fn join_token(&self) -> PathBuf {
        self.dir.path().join("join.token")
    }
}

/// Two octets that differ between tests that run at the same time.
fn worker_octets() -> [u8; 2] {
    let [low, high, ..] = std::process::id().to_le_bytes();
    [low, high]
}

fn worker_id(index: usize) -> String {
    format!("worker-{index}")
}

/// Level ERROR, or a panic, which has no level.
fn is_error(line: &str) -> bool {
    line.split_ascii_whitespace().take(3).any(|word| word == "ERROR") || line.contains("panicked at")
}

async fn ready(process: &mut Process, metrics: SocketAddr) -> Result<()> {
    let name = process.name().to_owned();
    eventually(&format!("{name} to be ready"), BOUND, async || {
        if let Some(status) = process.status()? {
            return Ok(Err(anyhow::anyhow!("{name} ended with {status}:\n{}", process.log())));
        }
        let (status, body) = http::get(metrics, "/readyz").await?;
        ensure!(status == 200, "{status}: {body}");
        Ok(Ok(()))
    })
    .await?
}
