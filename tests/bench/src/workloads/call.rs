//! Phones call each other: INVITE, 180, 200, ACK, a short talk, BYE.
//!
//! INVITE is challenged on neither side, so that a call is a call and not a digest. Without media the bodies are empty on both
//! sides: with SDP in them our edge always anchors. With media nothing flows: what is counted is the set-up.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{User, users};
use trunkline_tests::sipp::{Running, Sipp};

use crate::load::{response_times, steady};
use crate::sample::{Sample, Side};
use crate::systems::{Part, Setup, System};
use crate::workload::{Bench, Measured, Transport, Workload};

/// Phones that are called; as many call.
const CALLEES: u32 = 100;
/// How long calls last: some are always up, and the last ends soon.
const TALK_MS: u32 = 200;

/// What the calls carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// No bodies.
    None,
    /// RTP on both sides, anchored.
    Rtp,
    /// SRTP with the caller (SDES, AES_CM_128_HMAC_SHA1_80), RTP with the called, anchored.
    Srtp,
}

impl Media {
    fn caller_scenario(self) -> &'static str {
        match self {
            Self::None => "call",
            Self::Rtp => "call-media",
            Self::Srtp => "call-srtp",
        }
    }

    fn callee_scenario(self) -> &'static str {
        match self {
            Self::None => "answer",
            Self::Rtp | Self::Srtp => "answer-media",
        }
    }
}

/// Calls that come and go.
#[derive(Debug)]
pub struct Calls {
    /// Name of the row.
    pub name: &'static str,
    /// Over what.
    pub transport: Transport,
    /// With what.
    pub media: Media,
    /// Calls a second.
    pub rate: u32,
}

impl Workload for Calls {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn description(&self) -> String {
        let media = match self.media {
            Media::None => "without media",
            Media::Rtp => "with anchored media (RTP to RTP, no packets)",
            Media::Srtp => "with anchored media (SRTP to RTP, no packets)",
        };
        format!(
            "INVITE, 180, 200, ACK, BYE over {} {media}, {} a second; a unit is a call",
            self.transport.uri_token(),
            self.rate
        )
    }

    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a> {
        Box::pin(async move {
            let phones = Phones::new();
            let system = System::start(
                bench,
                side,
                &Setup {
                    transport: self.transport,
                    users: &phones.callees,
                    media: self.media != Media::None,
                    srtp: self.media == Media::Srtp,
                },
            )
            .await?;
            let sample = self.load(bench, &phones, &system).await?;
            system.finish().await?;
            Ok(sample)
        })
    }
}

impl Calls {
    async fn load(&self, bench: &Bench, phones: &Phones, system: &System) -> Result<Sample> {
        let callees = phones.answer(bench, self.transport, self.media, system).await?;
        let seconds = (bench.warm_up + bench.window).as_secs() as u32 + 4;
        let mut driver = phones
            .call(bench, self.transport, self.media, system.target())
            .rate(self.rate)
            .calls(self.rate * seconds)
            .open(self.rate * 2)
            .args(["-key", "talk", &TALK_MS.to_string()])
            .start(&bench.dir)?;
        let window = steady(bench, &mut driver, &[callees.id()], &system.meter(), self.rate).await?;
        let dir = driver.dir().to_owned();
        let report = driver.finish(BOUND).await?;
        ensure!(report.successful > 0, "no call at all");
        eventually("every call to be over", BOUND, async || {
            let calls = system.calls().await?;
            ensure!(calls == 0, "{calls} calls are still up");
            Ok(())
        })
        .await?;
        callees.stop()?;
        let mut sample = window.sample();
        if let Some((p50, p99)) = response_times(&dir)? {
            sample.seen.insert("answer_p50_ms".to_owned(), p50);
            sample.seen.insert("answer_p99_ms".to_owned(), p99);
        }
        Ok(sample)
    }
}

/// Who calls and who is called.
#[derive(Debug)]
pub struct Phones {
    callers: Vec<User>,
    /// They register, and so need credentials.
    pub callees: Vec<User>,
}

impl Default for Phones {
    fn default() -> Self {
        Self::new()
    }
}

impl Phones {
    /// So many of each that none is special.
    pub fn new() -> Self {
        Self {
            callers: users(1, CALLEES),
            callees: users(CALLEES + 1, CALLEES),
        }
    }

    /// Phones that register and answer on the same socket or connection, all registered when this returns.
    ///
    /// # Errors
    /// When they do not register.
    pub async fn answer(&self, bench: &Bench, transport: Transport, media: Media, system: &System) -> Result<Running> {
        let rows = self
            .callees
            .iter()
            .map(|user| {
                format!(
                    "{0};[authentication username={0} password={1}]",
                    user.name, user.password
                )
            })
            .collect();
        let answer = bench.home.join(format!("scenarios/{}.xml", media.callee_scenario()));
        let answer = answer.to_str().context("a path that is no text")?;
        let running = Sipp::scenario(
            &bench.home.join("scenarios/callee.xml"),
            SocketAddr::new(Part::Callees.address(), 5080),
            Some(system.target()),
        )
        .rows(rows)
        .rate(CALLEES)
        .calls(CALLEES)
        .open(1_000_000)
        .args(["-t", transport.sipp(), "-oocsf", answer])
        .start(&bench.dir)?;
        eventually("the called phones to register", BOUND, async || {
            let contacts = system.contacts().await?;
            ensure!(contacts == u64::from(CALLEES), "{contacts} of {CALLEES} are registered");
            Ok(())
        })
        .await?;
        Ok(running)
    }

    /// Phones that call; rate and number are the caller's to say.
    pub fn call(&self, bench: &Bench, transport: Transport, media: Media, target: SocketAddr) -> Sipp {
        let rows = self
            .callers
            .iter()
            .zip(&self.callees)
            .map(|(caller, callee)| format!("{};{}", caller.name, callee.name))
            .collect();
        let scenario = bench.home.join(format!("scenarios/{}.xml", media.caller_scenario()));
        Sipp::scenario(&scenario, SocketAddr::new(Part::Callers.address(), 5070), Some(target))
            .rows(rows)
            .args(["-t", transport.sipp(), "-trace_rtt", "-rtt_freq", "1000"])
    }
}
