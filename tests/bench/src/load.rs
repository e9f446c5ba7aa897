//! SIPp, and the steady window the system under test is measured in.
//!
//! SIPp writes a line of statistics a second. The window opens and closes on such lines, so that units of work and CPU clocks are
//! read at the same moments; ramp-up lies before it and what ends late behind it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use trunkline_tests::eventually::{Stopwatch, talk};
use trunkline_tests::sipp::{Report, Running};

use crate::cpu::Meter;
use crate::sample::Sample;
use crate::workload::Bench;

/// How often the statistics are looked at: the error of a window's edge, 2 ms in seconds.
const LOOK: Duration = Duration::from_millis(2);
/// A line a second is due; this is what a machine out of breath may take.
const LATE: Duration = Duration::from_secs(10);
/// Share of the asked rate that must be reached.
const REACHED: f64 = 0.98;
/// Failed units among successful ones: a machine that does other things may lose a packet in ten thousand several times.
const FAILED: f64 = 0.001;
/// Messages sent again per unit. One in a hundred changes the cost of a unit by less than a thousandth part; a system that lives
/// on retransmissions is not measured.
const REPEATED: f64 = 0.01;

/// What a loaded system cost inside the window.
#[derive(Debug)]
pub struct Window {
    /// Its length.
    pub length: Duration,
    /// Units of work done.
    pub units: u64,
    /// Microseconds of the system under test by process.
    pub system: std::collections::BTreeMap<String, f64>,
    /// The same by thread, `worker/shard-0`, where threads have names.
    pub threads: std::collections::BTreeMap<String, f64>,
    /// Microseconds of the generators.
    pub generator: f64,
    /// Messages sent again by the generator.
    pub repeated: u64,
}

/// Waits for the steady window of `driver`, whose successful scenarios are the units, and measures in it.
///
/// # Errors
/// When the load ends too early, falls short of `rate` per second, or fails.
pub async fn steady(bench: &Bench, driver: &mut Running, others: &[u32], system: &Meter, rate: u32) -> Result<Window> {
    let generator = others
        .iter()
        .fold(Meter::new().with("generator", driver.id()), |meter, pid| {
            meter.with("generator", *pid)
        });
    let ramp = Stopwatch::start();
    while ramp.elapsed() < bench.warm_up {
        line(driver).await?;
    }
    let opened = Stopwatch::start();
    let before = (driver.report()?, system.read()?, generator.read()?);
    while opened.elapsed() + Duration::from_millis(500) < bench.window {
        line(driver).await?;
    }
    let length = opened.elapsed();
    let after = (driver.report()?, system.read()?, generator.read()?);
    let count = |value: fn(&Report) -> u32| u64::from(value(&after.0) - value(&before.0));
    let window = Window {
        length,
        units: count(|report| report.successful),
        system: after.1.since(&before.1)?,
        threads: after.1.by_thread(&before.1),
        generator: after.2.since(&before.2)?.values().sum(),
        repeated: count(|report| report.retransmissions),
    };
    let failed = count(|report| report.failed);
    let reached = window.rate();
    ensure!(
        reached >= f64::from(rate) * REACHED,
        "only {reached:.0} of {rate} a second, generator at {:.0} % of a core: {window:?}, {failed} failed",
        window.generator / length.as_secs_f64() / 1e4
    );
    let units = window.units as f64;
    ensure!(
        failed as f64 <= units * FAILED && window.repeated as f64 <= units * REPEATED,
        "{failed} failed and {} repeated in {window:?}:\n{}",
        window.repeated,
        driver.complaints().lines().take(20).collect::<Vec<_>>().join("\n")
    );
    Ok(window)
}

impl Window {
    /// Units of work per second.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.length.as_secs_f64()
    }

    /// The measurement, without what else was seen.
    pub fn sample(&self) -> Sample {
        let units = self.units as f64;
        let parts = self.system.iter().chain(&self.threads);
        let generator_share = self.generator / self.length.as_secs_f64() / 1e6;
        Sample {
            cost: self.system.values().sum::<f64>() / units,
            parts: parts.map(|(name, used)| (name.clone(), used / units)).collect(),
            generator: self.generator / units,
            rate: self.rate(),
            units: self.units,
            seen: [
                ("generator_core_percent".to_owned(), generator_share * 100.0),
                ("repeated_messages".to_owned(), self.repeated as f64),
            ]
            .into(),
        }
    }
}

/// Waits for the next line of statistics.
async fn line(driver: &mut Running) -> Result<()> {
    let size = driver.statistics_size();
    let since = Stopwatch::start();
    while driver.statistics_size() == size {
        if !driver.is_running()? {
            bail!("the load ended before the window did:\n{}", driver.complaints());
        }
        ensure!(since.elapsed() < LATE, "no line of statistics within {LATE:?}");
        talk(LOOK).await;
    }
    Ok(())
}

/// Response times that SIPp kept (`-trace_rtt`), p50 and p99 in milliseconds; `None` without any.
///
/// # Errors
/// When they are no numbers.
pub fn response_times(driver_dir: &std::path::Path) -> Result<Option<(f64, f64)>> {
    let file: Option<PathBuf> = fs::read_dir(driver_dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("_rtt.csv"));
    let Some(file) = file else { return Ok(None) };
    let text = fs::read_to_string(file)?;
    let mut times: Vec<f64> = text
        .lines()
        .skip(1)
        .map(|line| {
            let value = line.split(';').nth(1).context("a line without a response time")?;
            value.trim().parse().with_context(|| format!("{value} is no time"))
        })
        .collect::<Result<_>>()?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64 - 1.0) * share) as usize).copied();
    Ok(at(0.5).zip(at(0.99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_times_are_ranked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(response_times(dir.path()).unwrap(), None);
        let lines: String = (1..=100).map(|n| format!("170;{n}.5;1\n")).collect();
        fs::write(
            dir.path().join("x_1_rtt.csv"),
            format!("Date_ms;response_time_ms;rtd_no\n{lines}"),
        )
        .unwrap();
        assert_eq!(response_times(dir.path()).unwrap(), Some((50.5, 99.5)));
    }
}
