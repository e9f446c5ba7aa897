//! Octets that a system holds for each contact, and for each call that is up.
//!
//! The proportional set size of all its processes, before and after, divided by what was added; both sides at the same rate, and
//! both read when transactions are over. What is held is counted by the system itself.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::users;

use super::call::{Media, Phones};
use super::register::{USERS, register};
use crate::memory::pss;
use crate::sample::{Sample, Side, Unit};
use crate::systems::{Setup, System};
use crate::workload::{Bench, Measured, Transport, Workload};

/// Calls that are held: enough that pages of code which the first call touches do not count.
const CALLS: u32 = 2000;
/// New contacts and calls a second.
const CONTACT_RATE: u32 = 1000;
const CALL_RATE: u32 = 200;
/// Longer than any run.
const HELD: &str = "3600000";
/// Memory hardly varies, and each round waits half a minute for transactions to be over.
const ROUNDS: u32 = 2;

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Registered contacts.
    Contact,
    /// Calls without media.
    Call,
    /// Calls with anchored media in which nothing flows.
    AnchoredCall,
}

impl Workload for Memory {
    fn name(&self) -> String {
        let name = match self {
            Self::Contact => "memory-contact",
            Self::Call => "memory-call",
            Self::AnchoredCall => "memory-anchored-call",
        };
        name.to_owned()
    }

    fn description(&self) -> String {
        match self {
            Self::Contact => format!("{USERS} registered contacts; a unit is a contact"),
            Self::Call => format!("{CALLS} calls without media are up; a unit is a call"),
            Self::AnchoredCall => format!("{CALLS} calls with anchored media (RTP to RTP) are up; a unit is a call"),
        }
    }

    fn unit(&self) -> Unit {
        Unit::Bytes
    }

    fn rounds(&self, asked: u32) -> u32 {
        asked.min(ROUNDS)
    }

    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a> {
        Box::pin(async move {
            match self {
                Self::Contact => contacts(side, bench).await,
                Self::Call => calls(side, bench, Media::None).await,
                Self::AnchoredCall => calls(side, bench, Media::Rtp).await,
            }
        })
    }
}

async fn contacts(side: Side, bench: &Bench) -> Result<Sample> {
    // The first ones touch what every later one uses.
    let (first, measured) = (users(1, 200), users(1001, USERS));
    let all: Vec<_> = first.iter().chain(&measured).cloned().collect();
    let setup = Setup {
        transport: Transport::Udp,
        users: &all,
        media: false,
        srtp: false,
    };
    let system = System::start(bench, side, &setup).await?;
    let mut before = BTreeMap::new();
    let mut stored = 0;
    for users in [first, measured] {
        before = pss(&system.meter())?;
        let count = u32::try_from(users.len())?;
        stored += u64::from(count);
        let driver = register(bench, Transport::Udp, &users, system.target(), CONTACT_RATE, count)?;
        let report = driver.finish(BOUND * 2).await?;
        ensure!(report.failed == 0, "{report:?}");
        eventually("all contacts to be stored", BOUND, async || {
            let contacts = system.contacts().await?;
            ensure!(contacts == stored, "{contacts} of {stored} contacts are stored");
            Ok(())
        })
        .await?;
    }
    system.settle().await?;
    let after = pss(&system.meter())?;
    system.finish().await?;
    Ok(sample(&before, &after, u64::from(USERS)))
}

async fn calls(side: Side, bench: &Bench, media: Media) -> Result<Sample> {
    let phones = Phones::new();
    let setup = Setup {
        transport: Transport::Udp,
        users: &phones.callees,
        media: media != Media::None,
        srtp: false,
    };
    let system = System::start(bench, side, &setup).await?;
    let callees = phones.answer(bench, Transport::Udp, media, &system).await?;
    // Some calls that end touch what every later one uses.
    let short = phones
        .call(bench, Transport::Udp, media, system.target())
        .calls(20)
        .args(["-key", "talk", "100"])
        .start(&bench.dir)?;
    let report = short.finish(BOUND).await?;
    ensure!(report.successful == 20, "{report:?}");
    let up = async |wanted: u64| {
        eventually("the calls to be up", BOUND * 2, async || {
            let calls = system.calls().await?;
            ensure!(calls == wanted, "{calls} of {wanted} calls are up");
            Ok(())
        })
        .await
    };
    up(0).await?;
    let before = pss(&system.meter())?;
    let held = phones
        .call(bench, Transport::Udp, media, system.target())
        .calls(CALLS)
        .rate(CALL_RATE)
        .open(CALLS)
        .args(["-key", "talk", HELD])
        .start(&bench.dir)?;
    up(u64::from(CALLS)).await?;
    system.settle().await?;
    let after = pss(&system.meter())?;
    up(u64::from(CALLS)).await?;
    held.stop()?;
    callees.stop()?;
    system.finish().await?;
    Ok(sample(&before, &after, u64::from(CALLS)))
}

fn sample(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, units: u64) -> Sample {
    let total = |sizes: &BTreeMap<String, f64>| sizes.values().sum::<f64>();
    let each = |name: &String, after: f64| (after - before.get(name).copied().unwrap_or(0.0)) / units as f64;
    Sample {
        cost: (total(after) - total(before)) / units as f64,
        parts: after
            .iter()
            .map(|(name, size)| (name.clone(), each(name, *size)))
            .collect(),
        generator: 0.0,
        rate: 0.0,
        units,
        seen: [
            ("pss_before_mib".to_owned(), total(before) / 1_048_576.0),
            ("pss_after_mib".to_owned(), total(after) / 1_048_576.0),
        ]
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_shared_out_by_process() {
        let sizes = |worker: f64, control: f64| -> BTreeMap<String, f64> {
            [("worker".to_owned(), worker), ("control".to_owned(), control)].into()
        };
        let sample = sample(&sizes(1000.0, 500.0), &sizes(3000.0, 900.0), 100);
        assert_eq!(
            (sample.cost, sample.parts["worker"], sample.parts["control"]),
            (24.0, 20.0, 4.0)
        );
    }
}
