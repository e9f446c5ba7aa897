//! The two sides, started afresh for each measurement and ended after it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use trunkline_tests::eventually::eventually;
use trunkline_tests::fixtures::User;

use crate::cpu::Meter;
use crate::sample::Side;
use crate::workload::{Bench, Transport};

pub mod credentials;
pub mod kamailio;
pub mod ours;
pub mod rtpengine;

use kamailio::Kamailio;
use ours::Ours;
use rtpengine::Rtpengine;

/// Who has a loopback address of its own in signalling workloads, so that two runs on one machine do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Kamailio and rtpengine.
    Peer = 70,
    /// Phones that register.
    Phones,
    /// Phones that call.
    Callers,
    /// Phones that are called.
    Callees,
}

impl Part {
    /// Its address in this process.
    pub fn address(self) -> IpAddr {
        let [low, high, ..] = std::process::id().to_le_bytes();
        Ipv4Addr::new(127, self as u8, high, low).into()
    }
}

/// Transactions linger for 64·T1 = 32 s (RFC 3261 §17).
const SETTLED: Duration = Duration::from_secs(90);
/// Media ports of either side: 12,500 calls of two pairs each.
const MEDIA_PORTS: (u16, u16) = (10_000, 59_999);

/// What a system is to do.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Transport of its listener.
    pub transport: Transport,
    /// Who may register.
    pub users: &'a [User],
    /// Whether it anchors media: the peer then has rtpengine with it. Our edge anchors whenever there is SDP.
    pub media: bool,
    /// Whether callers speak SRTP; the called never do.
    pub srtp: bool,
}

/// A side for signalling workloads, on loopback.
#[derive(Debug)]
pub enum System {
    /// Kamailio, and rtpengine if it anchors media.
    Peer(Kamailio, Option<Rtpengine>),
    /// Control plane and worker.
    Ours(Ours),
}

impl System {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(bench: &Bench, side: Side, setup: &Setup<'_>) -> Result<Self> {
        match side {
            Side::Peer => {
                let peer = Part::Peer.address();
                let media = match setup.media {
                    true => Some(Rtpengine::start(bench, peer, SocketAddr::new(peer, 2223), MEDIA_PORTS).await?),
                    false => None,
                };
                let kamailio = kamailio::Setup {
                    transport: setup.transport,
                    listen: SocketAddr::new(peer, 5060),
                    users: setup.users,
                    media: media.as_ref(),
                    srtp: setup.srtp,
                };
                Ok(Self::Peer(Kamailio::start(bench, &kamailio).await?, media))
            }
            Side::Ours => {
                let ours = ours::Setup {
                    transport: setup.transport,
                    address: None,
                    media_tier: "auto",
                    users: setup.users,
                    srtp: setup.srtp,
                };
                Ok(Self::Ours(Ours::start(bench, &ours).await?))
            }
        }
    }

    /// Where phones find it.
    pub fn target(&self) -> SocketAddr {
        match self {
            Self::Peer(kamailio, _) => kamailio.listen(),
            Self::Ours(ours) => ours.target(),
        }
    }

    /// All of its processes.
    pub fn meter(&self) -> Meter {
        match self {
            Self::Peer(kamailio, None) => kamailio.meter(),
            Self::Peer(kamailio, Some(rtpengine)) => kamailio.meter().with("rtpengine", rtpengine.id()),
            Self::Ours(ours) => ours.meter(),
        }
    }

    /// Contacts it has stored. Ours are those the control plane lists: they have come through the worker, its spool and the
    /// store.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn contacts(&self) -> Result<u64> {
        match self {
            Self::Peer(kamailio, _) => kamailio.contacts(),
            Self::Ours(ours) => Ok(ours.api().list_registrations(ours::TRUNK).await?.len() as u64),
        }
    }

    /// Calls that are up.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn calls(&self) -> Result<u64> {
        match self {
            Self::Peer(kamailio, _) => kamailio.calls(),
            Self::Ours(ours) => Ok(ours.metric("active_calls").await? as u64),
        }
    }

    /// Waits until what ended calls and registrations leave for a while is gone: transactions, and reports on their way.
    ///
    /// # Errors
    /// When it stays.
    pub async fn settle(&self) -> Result<()> {
        eventually("transactions and reports to be over", SETTLED, async || {
            match self {
                Self::Peer(kamailio, _) => {
                    let left = kamailio.transactions()?;
                    ensure!(left == 0, "{left} transactions");
                }
                Self::Ours(ours) => {
                    for name in ["sip_transactions", "spool_reports"] {
                        let left = ours.metric(name).await?;
                        ensure!(left == 0.0, "{name} is {left}");
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends it, and looks through its logs.
    ///
    /// # Errors
    /// When it does not end well, or had errors.
    pub async fn finish(self) -> Result<()> {
        match self {
            Self::Peer(kamailio, rtpengine) => {
                kamailio.finish().await?;
                match rtpengine {
                    Some(rtpengine) => rtpengine.finish().await,
                    None => Ok(()),
                }
            }
            Self::Ours(ours) => ours.finish().await,
        }
    }
}
