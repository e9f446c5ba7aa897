//! Hours of calls and registrations: memory stays flat, nothing fails, nothing is left.
//!
//! Calls with anchored media over UDP and registrations over TCP run at a steady rate. Resident memory is sampled all the time and
//! a line is laid through the samples by least squares; at the end everything that a call or a phone holds has to be given back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use trunkline_tests::eventually::{BOUND, Stopwatch, eventually, talk};
use trunkline_tests::fixtures::{User, create_trunk, create_users, users};
use trunkline_tests::sipp::{Report, Running};

use crate::memory::rss;
use crate::sample::Side;
use crate::systems::{Setup, System, ours};
use crate::workload::{Bench, Transport};
use crate::workloads::call::{Media, Phones};
use crate::workloads::register::register;

/// What a soak is to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long there is load.
    pub duration: Duration,
    /// Calls a second.
    pub calls: u32,
    /// Registrations a second.
    pub registrations: u32,
    /// Growth of a process that fails the soak, in KiB a minute; judged only when there is load for [`JUDGED`] and more.
    pub growth: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Seconds of load.
    pub seconds: f64,
    /// Calls that went through.
    pub calls: u32,
    /// Calls that did not.
    pub calls_failed: u32,
    /// Registrations that went through.
    pub registrations: u32,
    /// Registrations that did not.
    pub registrations_failed: u32,
    /// Messages the generators sent again.
    pub repeated: u32,
    /// Resident memory by process.
    pub memory: BTreeMap<String, Growth>,
    /// Gauges of the worker after the load, which waited for them to be 0.
    pub gauges: BTreeMap<String, f64>,
    /// Seconds until they were.
    pub settled: f64,
    /// What is wrong; empty when nothing is.
    pub faults: Vec<String>,
}

/// Resident memory of a process over time.
#[derive(Debug, Clone, Serialize)]
pub struct Growth {
    /// At the first judged sample, octets.
    pub first: f64,
    /// At the last one, octets.
    pub last: f64,
    /// Largest, octets.
    pub largest: f64,
    /// Slope of the line of least squares through the judged samples, KiB a minute.
    pub kib_per_minute: f64,
    /// All samples: second, octets.
    pub samples: Vec<(f64, f64)>,
}

/// Below this, memory that finds its level is most of what is seen.
pub const JUDGED: Duration = Duration::from_secs(300);
/// Share of the time at the start that is not judged: tables, pools and caches grow to their size.
const SETTLING: f64 = 0.2;
/// Samples kept in the end.
const SAMPLES: usize = 360;
/// What a worker holds for calls and phones.
const GAUGES: [&str; 5] = [
    "active_calls",
    "sip_transactions",
    "media_ports_leased",
    "sip_connections",
    "spool_reports",
];
/// Transactions linger for 64·T1 = 32 s (RFC 3261 §17), and reports wait for the store.
const SETTLED: Duration = Duration::from_secs(120);
/// Phones that register over TCP.
const USERS: u32 = 1000;
const TCP_TRUNK: &str = "trunks/tcp";
const TCP_PORT: u16 = 8062;

/// Runs it. What is wrong with the system is in [`Outcome::faults`].
///
/// # Errors
/// When it could not be run to its end.
pub async fn run(bench: &Bench, plan: &Plan) -> Result<Outcome> {
    let phones = Phones::new();
    let setup = Setup {
        transport: Transport::Udp,
        users: &phones.callees,
        media: true,
        srtp: false,
    };
    let system = System::start(bench, Side::Ours, &setup).await?;
    let registering = users(20_001, USERS);
    let tcp = tcp_trunk(&system, &registering).await?;

    let callees = phones.answer(bench, Transport::Udp, Media::Rtp, &system).await?;
    let seconds = u32::try_from(plan.duration.as_secs()).context("too long")?;
    let total = |rate: u32| rate.checked_mul(seconds).context("too much for one run");
    let mut calls = phones
        .call(bench, Transport::Udp, Media::Rtp, system.target())
        .rate(plan.calls)
        .calls(total(plan.calls)?)
        .open(plan.calls * 4)
        .args(["-key", "talk", "1000"])
        .start(&bench.dir)?;
    let mut registrations = register(
        bench,
        Transport::Tcp,
        &registering,
        tcp,
        plan.registrations,
        total(plan.registrations)?,
    )?;

    let since = Stopwatch::start();
    let meter = system.meter();
    let mut samples: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut said = 0;
    let bound = plan.duration + plan.duration / 4 + BOUND;
    while since.elapsed() < bound && (calls.is_running()? || registrations.is_running()?) {
        let at = since.elapsed().as_secs_f64();
        for (name, octets) in rss(&meter)? {
            samples.entry(name).or_default().push((at, octets));
        }
        if since.elapsed().as_secs() / 60 > said {
            said = since.elapsed().as_secs() / 60;
            progress(said, &calls, &registrations, &samples);
        }
        talk(Duration::from_secs(1)).await;
    }
    let length = since.elapsed().as_secs_f64();
    // A load that fell behind is cut short, and shows as calls that are missing.
    let (called, registered) = (end(calls).await?, end(registrations).await?);
    callees.stop()?;

    let settling = Stopwatch::start();
    let gauges = settle(&system).await?;
    let settled = settling.elapsed().as_secs_f64();
    let mut outcome = Outcome {
        seconds: length,
        calls: called.successful,
        calls_failed: called.failed,
        registrations: registered.successful,
        registrations_failed: registered.failed,
        repeated: called.retransmissions + registered.retransmissions,
        memory: samples
            .into_iter()
            .map(|(name, samples)| (name, Growth::of(samples)))
            .collect(),
        gauges,
        settled,
        faults: Vec::new(),
    };
    outcome.faults = faults(&outcome, plan, (total(plan.calls)?, total(plan.registrations)?));
    if let Err(error) = system.finish().await {
        outcome.faults.push(format!("{error:#}"));
    }
    Ok(outcome)
}

/// How a generator's work went; one that is not through is ended.
async fn end(mut generator: Running) -> Result<Report> {
    if !generator.is_running()? {
        return generator.finish(BOUND).await;
    }
    let report = generator.report()?;
    generator.stop()?;
    Ok(report)
}

/// A trunk for phones that register over TCP, beside the one the calls go over.
async fn tcp_trunk(system: &System, users: &[User]) -> Result<SocketAddr> {
    let System::Ours(ours) = system else {
        bail!("only our side soaks")
    };
    let mut trunk = ours::fast(Transport::Tcp, false);
    trunk.display_name = "Soak over TCP".to_owned();
    trunk.listen_port = Some(TCP_PORT.into());
    create_trunk(ours.api(), "tcp", trunk).await?;
    create_users(ours.api(), TCP_TRUNK, users).await?;
    ours.synced().await?;
    Ok(SocketAddr::new(ours.target().ip(), TCP_PORT))
}

/// Waits until the worker holds nothing any more; what it holds then.
async fn settle(system: &System) -> Result<BTreeMap<String, f64>> {
    let System::Ours(ours) = system else {
        bail!("only our side soaks")
    };
    let read = async || -> Result<BTreeMap<String, f64>> {
        let mut gauges = BTreeMap::new();
        for name in GAUGES {
            gauges.insert(name.to_owned(), ours.metric(name).await?);
        }
        Ok(gauges)
    };
    let waited = eventually("every gauge to return to 0", SETTLED, async || {
        let gauges = read().await?;
        ensure!(gauges.values().all(|value| *value == 0.0), "{gauges:?}");
        Ok(())
    });
    if let Err(error) = waited.await {
        eprintln!("{error:#}");
    }
    read().await
}

fn faults(outcome: &Outcome, plan: &Plan, (calls, registrations): (u32, u32)) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |good: bool, text: String| {
        if !good {
            faults.push(text);
        }
    };
    check(
        outcome.calls_failed == 0,
        format!("{} calls failed", outcome.calls_failed),
    );
    check(
        outcome.registrations_failed == 0,
        format!("{} registrations failed", outcome.registrations_failed),
    );
    check(
        outcome.calls == calls && outcome.registrations == registrations,
        format!(
            "{} of {calls} calls and {} of {registrations} registrations went through",
            outcome.calls, outcome.registrations
        ),
    );
    for (name, value) in &outcome.gauges {
        check(*value == 0.0, format!("{name} is {value} in the end"));
    }
    if plan.duration >= JUDGED {
        for (name, growth) in &outcome.memory {
            check(
                growth.kib_per_minute <= plan.growth,
                format!("{name} grows by {:.0} KiB a minute", growth.kib_per_minute),
            );
        }
    }
    faults
}

impl Growth {
    fn of(samples: Vec<(f64, f64)>) -> Self {
        let judged_from = samples.last().map_or(0.0, |(at, _)| at * SETTLING);
        let judged: Vec<_> = samples.iter().copied().filter(|(at, _)| *at >= judged_from).collect();
        let step = samples.len().div_ceil(SAMPLES).max(1);
        Self {
            first: judged.first().map_or(0.0, |(_, octets)| *octets),
            last: judged.last().map_or(0.0, |(_, octets)| *octets),
            largest: samples.iter().map(|(_, octets)| *octets).fold(0.0, f64::max),
            kib_per_minute: slope(&judged) * 60.0 / 1024.0,
            samples: samples.into_iter().step_by(step).collect(),
        }
    }
}

/// Slope of the line of least squares through `points`; 0 when they say nothing.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count.max(1.0);
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if spread > 0.0 { common / spread } else { 0.0 }
}

fn progress(minute: u64, calls: &Running, registrations: &Running, samples: &BTreeMap<String, Vec<(f64, f64)>>) {
    let memory: Vec<_> = samples
        .iter()
        .filter_map(|(name, samples)| Some(format!("{name} {:.1} MiB", samples.last()?.1 / 1_048_576.0)))
        .collect();
    let count = |running: &Running| match running.report() {
        Ok(report) => format!("{} ({} failed)", report.successful, report.failed),
        Err(_) => "?".to_owned(),
    };
    println!(
        "minute {minute}: {} calls, {} registrations, {}",
        count(calls),
        count(registrations),
        memory.join(", ")
    );
}

impl Outcome {
    /// Writes it as JSON, with date and machine.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path, date: &str, machine: &str, plan: &Plan) -> Result<()> {
        let value = serde_json::json!({
            "date": date,
            "machine": machine,
            "calls_per_second": plan.calls,
            "registrations_per_second": plan.registrations,
            "outcome": self,
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string(&value)? + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// What people want to know of it.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:.0} s: {} calls ({} failed), {} registrations ({} failed), {} messages sent again; gauges {:?} after {:.0} s\n",
            self.seconds,
            self.calls,
            self.calls_failed,
            self.registrations,
            self.registrations_failed,
            self.repeated,
            self.gauges,
            self.settled
        );
        for (name, growth) in &self.memory {
            text += &format!(
                "{name}: RSS {:.1} MiB, then {:.1} MiB, at most {:.1} MiB, slope {:+.1} KiB/min\n",
                growth.first / 1_048_576.0,
                growth.last / 1_048_576.0,
                growth.largest / 1_048_576.0,
                growth.kib_per_minute
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_noise() {
        let points: Vec<_> = (0..100)
            .map(|n| {
                (
                    f64::from(n),
                    1000.0 + 3.0 * f64::from(n) + if n % 2 == 0 { 5.0 } else { -5.0 },
                )
            })
            .collect();
        assert!((slope(&points) - 3.0).abs() < 0.05, "{}", slope(&points));
        assert_eq!(slope(&[]), 0.0);
        assert_eq!(slope(&[(1.0, 5.0)]), 0.0);
    }

    #[test]
    fn growth_while_things_settle_is_not_judged() {
        let samples: Vec<_> = (0..100u32)
            .map(|n| (f64::from(n), if n < 15 { f64::from(n) * 1e6 } else { 15e6 }))
            .collect();
        let growth = Growth::of(samples);
        assert_eq!((growth.kib_per_minute, growth.first, growth.largest), (0.0, 15e6, 15e6));
        assert_eq!(growth.samples.len(), 100);
    }
}
