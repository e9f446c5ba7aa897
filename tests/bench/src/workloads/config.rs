//! Configuration on its way to where it acts. Kamailio has nothing to compare: it reads a file when it starts.
//!
//! Time is from the request to the API to the first request of a phone that is treated by the new configuration, which is the
//! only sign that cannot lie; a phone asks every [`ASK`], so that much is the error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost_types::FieldMask;
use trunkline_proto::v1::{AccessControl, TransportProtocol, Trunk, UpdateTrunkRequest};
use trunkline_tests::api::Api;
use trunkline_tests::cluster::{Cluster, Setup as ClusterSetup};
use trunkline_tests::eventually::{BOUND, Stopwatch, talk};
use trunkline_tests::fixtures::{PHONE, create_trunk, trunk};
use trunkline_tests::sip::Prober;

use crate::cpu::{Meter, Reading};
use crate::sample::{Sample, Side, Unit};
use crate::systems::ours::{PORT, TRUNK};
use crate::workload::{Bench, Measured, Workload};

/// Pause between two questions of a phone.
const ASK: Duration = Duration::from_millis(2);
/// Entries of the large access list.
const ENTRIES: u32 = 100_000;
/// Trunks; half of them on UDP, half on TCP.
const TRUNKS: u16 = 10_000;
/// Their first port; the last is clear of media and of ephemeral ports.
const FIRST_PORT: u16 = 10_000;
/// Created at the same time.
const CREATING: usize = 4;
/// Workers of the fleet, and updates it sees.
const WORKERS: usize = 50;
const UPDATES: u32 = 10;
/// What ten thousand trunks may take.
const LONG: Duration = Duration::from_secs(300);

/// What is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// An access list of a hundred thousand entries.
    Acl,
    /// Ten thousand trunks.
    Trunks,
    /// A small change on fifty workers.
    Workers,
}

impl Workload for Config {
    fn name(&self) -> String {
        let name = match self {
            Self::Acl => "config-acl",
            Self::Trunks => "config-trunks",
            Self::Workers => "config-workers",
        };
        name.to_owned()
    }

    fn description(&self) -> String {
        match self {
            Self::Acl => format!("an access list of {ENTRIES} entries, from UpdateTrunk to enforced"),
            Self::Trunks => format!("{TRUNKS} trunks, from the start of a worker to all listeners bound"),
            Self::Workers => {
                format!(
                    "an access list changes on {WORKERS} worker processes of this machine, p99 from UpdateTrunk to enforced"
                )
            }
        }
    }

    fn unit(&self) -> Unit {
        Unit::Milliseconds
    }

    fn has_peer(&self) -> bool {
        false
    }

    fn rounds(&self, asked: u32) -> u32 {
        // Making ten thousand trunks over the API takes minutes.
        if *self == Self::Trunks { 1 } else { asked }
    }

    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a> {
        Box::pin(async move {
            ensure!(side == Side::Ours, "the peer does not do this");
            match self {
                Self::Acl => acl(bench).await,
                Self::Trunks => trunks(bench).await,
                Self::Workers => workers(bench).await,
            }
        })
    }
}

async fn acl(bench: &Bench) -> Result<Sample> {
    let (cluster, api) = cluster(bench, 1).await?;
    let mut phone = Prober::new(PHONE, SocketAddr::new(cluster.sip(0), PORT)).await?;
    answered(&mut phone, 200).await?;
    // Every second /28 of 16.0.0.0/4 and then some: nothing that folds into something shorter, and not this phone.
    let entries: Vec<_> = (0..ENTRIES)
        .map(|n| format!("{}/28", std::net::Ipv4Addr::from_bits(0x1000_0000 + n * 32)))
        .collect();
    let meter = meter(&cluster)?;
    let before = meter.read()?;
    let since = Stopwatch::start();
    update_acl(&api, entries).await?;
    let accepted = milliseconds(&since);
    answered(&mut phone, 403).await?;
    let enforced = milliseconds(&since);
    let mut sample = sample(enforced, &meter.read()?, &before)?;
    sample.seen.insert("api_answer_ms".to_owned(), accepted);
    cluster.finish().await?;
    Ok(sample)
}

async fn trunks(bench: &Bench) -> Result<Sample> {
    let (mut cluster, api) = cluster(bench, 1).await?;
    let since = Stopwatch::start();
    let mut creating = tokio::task::JoinSet::new();
    for number in 0..TRUNKS {
        if creating.len() >= CREATING {
            creating.join_next().await.context("a task is there")???;
        }
        let api = api.clone();
        creating.spawn_local(async move {
            let protocol = match number % 2 {
                0 => TransportProtocol::Udp,
                _ => TransportProtocol::Tcp,
            };
            let trunk = trunk(&format!("Trunk {number}"), protocol, FIRST_PORT + number / 2);
            create_trunk(&api, &format!("t{number}"), trunk).await
        });
    }
    while let Some(created) = creating.join_next().await {
        created??;
    }
    let created = milliseconds(&since);
    cluster.synced_within(0, LONG).await?;
    let synced = milliseconds(&since);

    // From nothing: a worker that has never seen this configuration gets all of it at once.
    cluster.kill_worker(0)?;
    cluster.forget_configuration(0)?;
    let control = cluster.control_process().context("no control plane")?;
    let meter = Meter::new().with("control", control);
    let before = meter.read()?;
    let since = Stopwatch::start();
    bench.cores.start_system()?;
    let started = cluster.start_worker(0).await;
    bench.cores.start_generator()?;
    started?;
    cluster.synced_within(0, LONG).await?;
    let applied = milliseconds(&since);
    // The last of each transport answers.
    let mut phone = Prober::new(PHONE, SocketAddr::new(cluster.sip(0), FIRST_PORT + TRUNKS / 2 - 1)).await?;
    answered(&mut phone, 200).await?;
    let worker = cluster.worker_process(0).context("no worker")?;
    let of_worker = Meter::new().with("worker", worker).read()?;
    let mut sample = sample(applied, &meter.read()?, &before)?;
    // All that a worker has used since its start.
    let used: f64 = of_worker.since(&Meter::new().read()?)?.values().sum();
    sample.seen.insert("worker_cpu_ms".to_owned(), used / 1000.0);
    sample.seen.insert("created_ms".to_owned(), created);
    sample.seen.insert("created_and_in_force_ms".to_owned(), synced);
    cluster.finish().await?;
    Ok(sample)
}

async fn workers(bench: &Bench) -> Result<Sample> {
    let (cluster, api) = cluster(bench, WORKERS).await?;
    let control = cluster.control_process().context("no control plane")?;
    let meter = Meter::new().with("control", control);
    let before = meter.read()?;
    let mut times = Vec::new();
    for update in 0..UPDATES {
        let (allow, status) = match update % 2 {
            0 => ("192.0.2.1/32", 403),
            _ => ("127.0.0.0/8", 200),
        };
        let since = Stopwatch::start();
        let mut phones = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let target = SocketAddr::new(cluster.sip(worker), PORT);
            phones.spawn_local(async move {
                let mut phone = Prober::new(PHONE, target).await?;
                answered(&mut phone, status).await?;
                anyhow::Ok(milliseconds(&since))
            });
        }
        update_acl(&api, vec![allow.to_owned()]).await?;
        while let Some(time) = phones.join_next().await {
            times.push(time??);
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let mut sample = sample(at(0.99), &meter.read()?, &before)?;
    sample.seen.insert("p50_ms".to_owned(), at(0.5));
    sample.seen.insert("worst_ms".to_owned(), at(1.0));
    sample.units = times.len() as u64;
    cluster.finish().await?;
    Ok(sample)
}

/// Workers with one trunk that lets phones of this machine in.
async fn cluster(bench: &Bench, workers: usize) -> Result<(Cluster, Api)> {
    bench.cores.start_system()?;
    let setup = ClusterSetup {
        workers,
        shards: 1,
        ..ClusterSetup::default()
    };
    let cluster = Cluster::with(setup).await;
    bench.cores.start_generator()?;
    let cluster = cluster?;
    let api = cluster.api()?;
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, PORT)).await?;
    for worker in 0..workers {
        cluster.synced(worker).await?;
    }
    Ok((cluster, api))
}

fn meter(cluster: &Cluster) -> Result<Meter> {
    Ok(Meter::new()
        .with("worker", cluster.worker_process(0).context("no worker")?)
        .with("control", cluster.control_process().context("no control plane")?))
}

async fn update_acl(api: &Api, allow: Vec<String>) -> Result<()> {
    let request = UpdateTrunkRequest {
        trunk: Some(Trunk {
            name: TRUNK.to_owned(),
            acl: Some(AccessControl {
                allow,
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["acl.allow".to_owned()],
        }),
        ..Default::default()
    };
    api.trunks().update_trunk(request).await?;
    Ok(())
}

/// Asks until the answer is `status`.
async fn answered(phone: &mut Prober, status: u16) -> Result<()> {
    let since = Stopwatch::start();
    loop {
        let got = phone.options().await;
        if got.as_ref().is_ok_and(|got| *got == status) {
            return Ok(());
        }
        ensure!(since.elapsed() < BOUND, "{got:?} instead of {status} after {BOUND:?}");
        talk(ASK).await;
    }
}

fn milliseconds(since: &Stopwatch) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn sample(cost: f64, after: &Reading, before: &Reading) -> Result<Sample> {
    let used = after.since(before)?;
    let seen: BTreeMap<_, _> = used
        .into_iter()
        .map(|(name, used)| (format!("{name}_cpu_ms"), used / 1000.0))
        .collect();
    Ok(Sample {
        cost,
        parts: BTreeMap::new(),
        generator: 0.0,
        rate: 0.0,
        units: 1,
        seen,
    })
}
