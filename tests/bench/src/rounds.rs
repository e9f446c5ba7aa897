//! The order of measurements: peer, ours, peer, ours.

use anyhow::{Context, Result};

use crate::report::{Figures, Row};
use crate::sample::{Sample, Side};
use crate::workload::{Bench, Workload};

/// What is the same for every row of a run.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Programs of the peer with their versions.
    pub peer_name: String,
    /// Commit that is measured.
    pub commit: String,
    /// When, UTC.
    pub time: String,
}

/// Measures one workload, `rounds` times each side, in turns.
///
/// # Errors
/// When a measurement fails: a row rests on all of its rounds or is not written.
pub async fn run(workload: &dyn Workload, rounds: u32, bench: &Bench, stamp: &Stamp) -> Result<Row> {
    let name = workload.name();
    let (mut peer, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=workload.rounds(rounds) {
        if workload.has_peer() {
            peer.push(measure(workload, Side::Peer, round, bench).await?);
        }
        ours.push(measure(workload, Side::Ours, round, bench).await?);
    }
    Ok(Row {
        work: name,
        description: workload.description(),
        unit: workload.unit(),
        peer_name: workload.has_peer().then(|| stamp.peer_name.clone()),
        peer: Figures::of(&peer),
        ours: Figures::of(&ours).context("no round at all")?,
        commit: stamp.commit.clone(),
        time: stamp.time.clone(),
    })
}

/// Measures one side only and prints what it found: for the author of a change, not for the table.
///
/// # Errors
/// When a measurement fails.
pub async fn probe(workload: &dyn Workload, side: Side, rounds: u32, bench: &Bench) -> Result<()> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        samples.push(measure(workload, side, round, bench).await?);
    }
    let figures = Figures::of(&samples).context("no round at all")?;
    println!(
        "{}, {}: median {:.3}, {:.3} to {:.3}",
        workload.name(),
        side.name(),
        figures.cost.median,
        figures.cost.min,
        figures.cost.max
    );
    Ok(())
}

async fn measure(workload: &dyn Workload, side: Side, round: u32, bench: &Bench) -> Result<Sample> {
    let name = workload.name();
    // Whatever the last measurement left this thread on.
    bench.cores.start_generator()?;
    let sample = workload
        .measure(side, bench)
        .await
        .with_context(|| format!("{name}, {}, round {round}", side.name()))?;
    println!(
        "{name:24} {:5} round {round}: {:10.2} per unit {:?}, {:.0} units/s, generator {:.1} µs, {:?}",
        side.name(),
        sample.cost,
        sample.parts,
        sample.rate,
        sample.generator,
        sample.seen
    );
    Ok(sample)
}
