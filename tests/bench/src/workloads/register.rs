//! Phones register, each time with a challenge and an answer to it; ten thousand of them, in turn.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{User, users};
use trunkline_tests::sipp::{Running, Sipp};

use crate::load::{response_times, steady};
use crate::sample::{Sample, Side};
use crate::systems::{Part, Setup, System};
use crate::workload::{Bench, Measured, Transport, Workload};

/// Users that register.
pub const USERS: u32 = 10_000;

/// REGISTER, 401, REGISTER, 200.
#[derive(Debug)]
pub struct Register {
    /// Over what.
    pub transport: Transport,
    /// Registrations a second.
    pub rate: u32,
}

impl Workload for Register {
    fn name(&self) -> String {
        format!("register-{}", self.transport.uri_token())
    }

    fn description(&self) -> String {
        format!(
            "REGISTER with digest (MD5, qop=auth) over {}, {USERS} users in turn, {} a second; a unit is a challenge and a 200",
            self.transport.uri_token(),
            self.rate
        )
    }

    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a> {
        Box::pin(async move {
            let users = users(1, USERS);
            let setup = Setup {
                transport: self.transport,
                users: &users,
                media: false,
                srtp: false,
            };
            let system = System::start(bench, side, &setup).await?;
            let sample = self.load(bench, &users, &system).await?;
            system.finish().await?;
            Ok(sample)
        })
    }
}

impl Register {
    async fn load(&self, bench: &Bench, users: &[User], system: &System) -> Result<Sample> {
        // Every user once, and two seconds for the window to close in.
        let seconds = (bench.warm_up + bench.window).as_secs() as u32 + 4;
        let calls = (self.rate * seconds).max(USERS);
        let mut driver = register(bench, self.transport, users, system.target(), self.rate, calls)?;
        let window = steady(bench, &mut driver, &[], &system.meter(), self.rate).await?;
        let dir = driver.dir().to_owned();
        driver.finish(BOUND).await?;
        // A count of answers is no proof: what is stored is.
        let contacts = eventually("all contacts to be stored", BOUND, async || {
            let contacts = system.contacts().await?;
            ensure!(
                contacts == u64::from(USERS),
                "{contacts} of {USERS} contacts are stored"
            );
            Ok(contacts)
        })
        .await?;
        let mut sample = window.sample();
        sample.seen.insert("stored_contacts".to_owned(), contacts as f64);
        if let Some((p50, p99)) = response_times(&dir)? {
            sample.seen.insert("response_p50_ms".to_owned(), p50);
            sample.seen.insert("response_p99_ms".to_owned(), p99);
        }
        Ok(sample)
    }
}

/// Starts phones that register, `calls` times in all.
///
/// # Errors
/// When SIPp is not there.
pub fn register(
    bench: &Bench,
    transport: Transport,
    users: &[User],
    target: SocketAddr,
    rate: u32,
    calls: u32,
) -> Result<Running> {
    let rows = users
        .iter()
        .map(|user| {
            format!(
                "{0};[authentication username={0} password={1}]",
                user.name, user.password
            )
        })
        .collect();
    let local = SocketAddr::new(Part::Phones.address(), 5070);
    let scenario = bench.home.join("scenarios/register.xml");
    Sipp::scenario(&scenario, local, Some(target))
        .rows(rows)
        .rate(rate)
        .calls(calls)
        .open(rate)
        .args(["-t", transport.sipp(), "-trace_rtt", "-rtt_freq", "1000"])
        .start(&bench.dir)
}
