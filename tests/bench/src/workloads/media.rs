//! The relay: two-way streams of 50 packets a second between two network namespaces, with and without SRTP on either side.
//!
//! The system under test has the first core and its own namespace, the generator the second and its own. Calls are set up by
//! SIP; then every stream end sends 172 octets of RTP each 20 ms, spread evenly. A unit is one relayed packet.
//!
//! On a veth pair the sender's core carries the receiver's half of the stack: the generator pays for the relay's arrivals up to
//! the socket, the relay for the copy into the generator's ring. Both sides are treated alike, and what is compared is CPU of the
//! relay's own threads. A relay that works in soft interrupts would be paid for by the generator: then the sum of both counts,
//! for which the generator's cost stands beside, with and without a relay on the way (`direct_cpu_us`).

mod edge;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use trunkline_media::SrtpSuite;

use crate::affinity::Cores;
use crate::cpu::{Meter, Reading};
use crate::memory::pss;
use crate::rtp::generator::{Generator, Mark, Outcome, Schedule, media_port};
use crate::rtp::network::{CALLEE, CALLEE_MEDIA, CALLER, CALLER_MEDIA, DIRECT_LINKS, Network, PHONES_LINK, Place};
use crate::rtp::stream::EndConfig;
use crate::sample::{Sample, Side};
use crate::sip::phones::{Phones, Plan, Stream};
use crate::sip::session::Session;
use crate::workload::{Bench, Measured, Workload};

use edge::Edge;

/// Packets due within a millisecond leave together: a hundred of a thousand two-way streams. Phones do not agree on phases
/// any better than that, and a relay that gains from bursts is not to be given larger ones.
const SLOT: Duration = Duration::from_millis(1);

/// What the relay does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// RTP on both sides.
    Plain,
    /// SRTP from and to callers, RTP on the other side.
    Bridge,
    /// SRTP on both sides, each with keys of its own.
    Rekey,
}

impl Mode {
    /// What names of workloads begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "rtp",
            Self::Bridge => "srtp-bridge",
            Self::Rekey => "srtp-rekey",
        }
    }

    /// What callers speak; plain RTP when `None`.
    pub fn caller(self) -> Option<SrtpSuite> {
        (self != Self::Plain).then_some(SrtpSuite::AesCm128HmacSha1_80)
    }

    /// What callees speak. Another suite than callers, of the same cost: between legs of one suite rtpengine always hands the
    /// keys through, which is less work and another trust.
    pub fn callee(self) -> Option<SrtpSuite> {
        (self == Self::Rekey).then_some(SrtpSuite::AesCm128HmacSha1_32)
    }
}

/// How our worker receives and sends media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// What a machine that does nothing else is set to: past filters that it does not have.
    Direct,
    /// What the worker takes by itself.
    Auto,
}

impl Tier {
    /// Value of `--media-tier`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "fan-in-direct",
            Self::Auto => "auto",
        }
    }
}

/// So many two-way streams in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// What is done with a packet.
    pub mode: Mode,
    /// Two-way streams.
    pub streams: usize,
    /// How our side goes about it.
    pub tier: Tier,
}

impl Relay {
    /// All rows.
    pub fn all() -> Vec<Self> {
        let row = |mode, streams, tier| Self { mode, streams, tier };
        let modes = [Mode::Plain, Mode::Bridge, Mode::Rekey].into_iter();
        modes
            .flat_map(|mode| {
                let direct = [100, 400, 1000].map(|streams| row(mode, streams, Tier::Direct));
                direct.into_iter().chain([row(mode, 1000, Tier::Auto)])
            })
            .collect()
    }

    async fn run(&self, side: Side, bench: &Bench) -> Result<Sample> {
        let network = Network::create()?;
        let sample = self.run_between(&network, side, bench).await;
        // However it went: the next measurement is not to start in a network that is gone.
        network.leave()?;
        sample
    }

    async fn run_between(&self, network: &Network, side: Side, bench: &Bench) -> Result<Sample> {
        let direct = self.direct(network, bench)?;
        network.enter(Place::Edge)?;
        let edge = Edge::start(side, self.mode, self.tier, bench).await;
        network.enter(Place::Phones)?;
        let edge = edge?;
        let mut phones = Phones::bind(CALLER, CALLEE).await?;
        let before = memory(&edge)?;
        let streams = phones.call(&self.plan(&edge)?).await?;
        let ends = ends(&streams, self.mode)?;
        let mut generator = Generator::new((PHONES_LINK, PHONES_LINK), &ends)?;
        let (outcome, cpu) = measure(&mut generator, &schedule(bench), &bench.cores, &edge.meter())?;
        let grown = (memory(&edge)? - before) / self.streams as f64;
        phones.hang_up().await?;
        drop(phones);
        network.enter(Place::Edge)?;
        edge.finish().await?;
        self.judge(&outcome)?;
        let mut sample = sample(&outcome, &cpu, &direct);
        sample.seen.insert("pss_per_call_octets".to_owned(), grown);
        Ok(sample)
    }

    /// The same load without a relay: what the way itself takes.
    fn direct(&self, network: &Network, bench: &Bench) -> Result<Outcome> {
        network.enter(Place::Phones)?;
        let mut ends = Vec::with_capacity(self.streams);
        for call in 0..self.streams {
            let [caller, callee] = addresses(call)?;
            let end = |own, to| EndConfig {
                own,
                to,
                sends: None,
                hears: None,
            };
            ends.push([end(caller, callee), end(callee, caller)]);
        }
        let schedule = Schedule {
            warm_up: Duration::from_millis(200),
            window: Duration::from_secs(1),
            slot: SLOT,
        };
        let (outcome, _) = measure(
            &mut Generator::new(DIRECT_LINKS, &ends)?,
            &schedule,
            &bench.cores,
            &Meter::new(),
        )?;
        ensure!(
            outcome.lost == 0 && outcome.received > 0,
            "the way without a relay loses packets: {} of {}",
            outcome.lost,
            outcome.sent
        );
        Ok(outcome)
    }

    fn plan(&self, edge: &Edge) -> Result<Plan> {
        Ok(Plan {
            edge: edge.target(),
            user: "callee".to_owned(),
            caller: self.mode.caller(),
            callee: self.mode.callee(),
            media: (0..self.streams).map(addresses).collect::<Result<_>>()?,
        })
    }

    /// A wrong figure is worse than none. Loss is a figure.
    fn judge(&self, outcome: &Outcome) -> Result<()> {
        ensure!(
            outcome.ring_dropped == 0 && outcome.unsent == 0,
            "the generator was the limit: {} frames not read, {} not sent",
            outcome.ring_dropped,
            outcome.unsent
        );
        ensure!(
            outcome.wrong == 0 && outcome.strangers == 0,
            "{} packets with the wrong content, {} of no stream",
            outcome.wrong,
            outcome.strangers
        );
        let rate = outcome.sent as f64 * 1e9 / outcome.window as f64;
        let wanted = self.streams as f64 * 100.0;
        ensure!(
            (rate / wanted - 1.0).abs() < 0.02,
            "{rate:.0} packets/s were sent where {wanted:.0} should have been"
        );
        ensure!(outcome.received > 0, "nothing arrived");
        Ok(())
    }
}

impl Workload for Relay {
    fn name(&self) -> String {
        let tier = match self.tier {
            Tier::Direct => "",
            Tier::Auto => "-auto",
        };
        format!("{}-{}{tier}", self.mode.name(), self.streams)
    }

    fn description(&self) -> String {
        let what = match self.mode {
            Mode::Plain => "RTP to RTP",
            Mode::Bridge => "SRTP (AES_CM_128_HMAC_SHA1_80) to RTP and back",
            Mode::Rekey => "SRTP (AES_CM_128_HMAC_SHA1_80) to SRTP (AES_CM_128_HMAC_SHA1_32) with other keys",
        };
        format!(
            "{what}, {} two-way streams of 50 packets/s and 172 octets, our worker with --media-tier {}; per packet",
            self.streams,
            self.tier.name()
        )
    }

    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a> {
        Box::pin(self.run(side, bench))
    }
}

fn schedule(bench: &Bench) -> Schedule {
    Schedule {
        warm_up: bench.warm_up,
        window: bench.window,
        slot: SLOT,
    }
}

/// Runs the streams on the generator's core and reads the clocks of the system at both ends of the window.
fn measure(
    generator: &mut Generator,
    schedule: &Schedule,
    cores: &Cores,
    meter: &Meter,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    cores.start_generator()?;
    let (mut before, mut after): (Option<Reading>, Option<Reading>) = (None, None);
    let outcome = generator.run(schedule, |mark| {
        let reading = Some(meter.read()?);
        match mark {
            Mark::Begin => before = reading,
            Mark::End => after = reading,
        }
        Ok(())
    })?;
    let (before, after) = before.zip(after).context("a window without an end")?;
    Ok((outcome, after.since(&before)?))
}

/// Proportional set size of the whole edge, in octets.
fn memory(edge: &Edge) -> Result<f64> {
    Ok(pss(&edge.meter())?.values().sum())
}

fn addresses(call: usize) -> Result<[SocketAddrV4; 2]> {
    let port = media_port(call).context("too many calls for the phones' ports")?;
    Ok([CALLER_MEDIA, CALLEE_MEDIA].map(|ip| SocketAddrV4::new(ip, port)))
}

/// What each end sends where, with which keys.
fn ends(streams: &[Stream], mode: Mode) -> Result<Vec<[EndConfig; 2]>> {
    let end = |[own, other]: &[Session; 2]| EndConfig {
        own: own.address,
        to: other.address,
        sends: own.key().cloned(),
        hears: other.key().cloned(),
    };
    for Stream { caller, callee } in streams {
        // Keys handed through would make the relay's work another one.
        ensure!(
            mode != Mode::Rekey || (caller[0].key() != callee[1].key() && callee[0].key() != caller[1].key()),
            "the edge hands keys through"
        );
    }
    Ok(streams
        .iter()
        .map(|stream| [end(&stream.caller), end(&stream.callee)])
        .collect())
}

fn sample(outcome: &Outcome, cpu: &BTreeMap<String, f64>, direct: &Outcome) -> Sample {
    let packets = outcome.relayed.max(1) as f64;
    let parts: BTreeMap<_, _> = cpu.iter().map(|(name, used)| (name.clone(), used / packets)).collect();
    let seconds = outcome.window as f64 / 1e9;
    let mut seen = BTreeMap::new();
    let mut see = |name: &str, value: f64| seen.insert(name.to_owned(), value);
    see("sent_packets", outcome.sent as f64);
    see("lost_packets", outcome.lost as f64);
    see("lost_percent", outcome.lost as f64 * 100.0 / outcome.sent.max(1) as f64);
    see(
        "direct_cpu_us",
        direct.cpu as f64 / 1000.0 / direct.relayed.max(1) as f64,
    );
    see("late_slots", outcome.late_slots as f64);
    see(
        "generator_core_percent",
        outcome.cpu as f64 * 100.0 / outcome.window.max(1) as f64,
    );
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (through, without) = (outcome.latency.quantile_us(share), direct.latency.quantile_us(share));
        see(&format!("latency_{name}_us"), through);
        see(&format!("direct_{name}_us"), without);
        see(&format!("added_{name}_us"), (through - without).max(0.0));
    }
    Sample {
        cost: parts.values().sum(),
        parts,
        generator: outcome.cpu as f64 / 1000.0 / packets,
        rate: outcome.relayed as f64 / seconds,
        units: outcome.relayed,
        seen,
    }
}
