//! Control plane and worker.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use trunkline_proto::v1::{SipMethod, SrtpMode, Trunk};
use trunkline_tests::api::Api;
use trunkline_tests::cluster::{Cluster, Setup as ClusterSetup};
use trunkline_tests::fixtures::{User, create_trunk, create_users, trunk};
use trunkline_tests::http;

use crate::cpu::Meter;
use crate::workload::{Bench, Transport};

/// Port of the trunk.
pub const PORT: u16 = 8060;
/// Its name.
pub const TRUNK: &str = "trunks/main";

/// What they are to do.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Transport of the trunk.
    pub transport: Transport,
    /// Where the worker listens for SIP and takes media; a loopback address of its own when `None`.
    pub address: Option<Ipv4Addr>,
    /// How the worker receives and sends media: `auto`, or the name of a tier.
    pub media_tier: &'static str,
    /// Who may register.
    pub users: &'a [User],
    /// Whether callers may speak SRTP.
    pub srtp: bool,
}

/// Both, running.
#[derive(Debug)]
pub struct Ours {
    cluster: Cluster,
    api: Api,
    meter: Meter,
    target: SocketAddr,
}

impl Ours {
    /// Starts both on the cores of the system under test, with one trunk, and waits until it is in force.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(bench: &Bench, setup: &Setup<'_>) -> Result<Self> {
        // As many shards and media threads as cores, which is the product's own default, too.
        let cores = bench.cores.system.len();
        let cluster_setup = ClusterSetup {
            shards: cores,
            media_threads: cores,
            media_tier: setup.media_tier,
            media_ports: "10000-59999".to_owned(),
            sip: setup.address,
            ..ClusterSetup::default()
        };
        bench.cores.start_system()?;
        let cluster = Cluster::with(cluster_setup).await;
        bench.cores.start_generator()?;
        let cluster = cluster?;
        let api = cluster.api()?;
        create_trunk(&api, "main", fast(setup.transport, setup.srtp)).await?;
        create_users(&api, TRUNK, setup.users).await?;
        cluster.synced(0).await?;
        let meter = Meter::new()
            .with("worker", cluster.worker_process(0).context("no worker")?)
            .with("control", cluster.control_process().context("no control plane")?);
        let target = SocketAddr::new(cluster.sip(0), PORT);
        Ok(Self {
            cluster,
            api,
            meter,
            target,
        })
    }

    /// Where the trunk listens.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// The API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Waits until the worker has all of the present configuration in force.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn synced(&self) -> Result<()> {
        self.cluster.synced(0).await
    }

    /// The processes.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// The sum of a worker's metric over its labels, `active_calls`.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = http::get(self.cluster.worker_metrics(0), "/metrics").await?;
        sum(&text, &format!("trunkline_worker_{name}"))
    }

    /// Ends both and looks through their logs.
    ///
    /// # Errors
    /// When something does not end well, or a log holds an error.
    pub async fn finish(self) -> Result<()> {
        self.cluster.finish().await
    }
}

/// The trunk of the tests, without limits a load would meet; INVITE is not challenged, as it is not by the peer.
pub fn fast(transport: Transport, srtp: bool) -> Trunk {
    let mut trunk = trunk("Bench", transport.protocol(), PORT);
    trunk.max_registration_rate = Some("100000/1s".to_owned());
    trunk.max_call_rate = Some("100000/1s".to_owned());
    if let Some(acl) = &mut trunk.acl {
        acl.allow.push("10.0.0.0/8".to_owned());
    }
    if let Some(digest) = &mut trunk.inbound_digest {
        digest.methods = vec![SipMethod::Register.into()];
    }
    if srtp {
        trunk.srtp_mode = SrtpMode::Optional.into();
    }
    trunk
}

/// Samples of `name` in the text format of Prometheus, added up.
fn sum(text: &str, name: &str) -> Result<f64> {
    let mut found = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if !rest.starts_with([' ', '{']) {
            continue;
        }
        let value = rest.rsplit(' ').next().context("a metric without a value")?;
        *found.get_or_insert(0.0) += value.parse::<f64>().with_context(|| format!("{line} is no metric"))?;
    }
    found.with_context(|| format!("no metric {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_over_longer_names() {
        let text = "# HELP a_calls Calls\na_calls{trunk=\"x\"} 2\na_calls{trunk=\"y\"} 3\na_calls_total 9\n";
        assert_eq!(sum(text, "a_calls").unwrap(), 5.0);
        sum(text, "a_call").unwrap_err();
    }
}
