//! The edge of the media workloads, either side, in the network namespace of whoever starts it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use rustix::process::setpriority_process;
use trunkline_media::SrtpSuite;
use trunkline_proto::v1::line_service_client::LineServiceClient;
use trunkline_proto::v1::route_target::Target;
use trunkline_proto::v1::{
    self as proto, AccessControl, Codec, CreateLineRequest, Line, Route, RouteMatch, RouteTarget, SrtpMode,
    TransportProtocol, Trunk,
};
use trunkline_tests::fixtures::{create_route, create_trunk};

use super::{Mode, Tier};
use crate::cpu::Meter;
use crate::rtp::network::{CALLEE, EDGE};
use crate::sample::Side;
use crate::sip::phones;
use crate::systems::kamailio::{self, Kamailio};
use crate::systems::ours::{self, Ours};
use crate::systems::rtpengine::Rtpengine;
use crate::workload::{Bench, Transport};

/// Ports of our trunks: a trunk has one listener.
const CALLERS_PORT: u16 = 8071;
const CALLEES_PORT: u16 = 8072;
/// Relayed media of the peer, clear of ephemeral ports: four ports a call.
const PEER_PORTS: (u16, u16) = (10_000, 30_000);
/// Where rtpengine takes commands.
const PEER_CONTROL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2223));

/// A running edge.
#[derive(Debug)]
pub enum Edge {
    /// Kamailio and rtpengine.
    Peer(Box<(Kamailio, Rtpengine)>),
    /// Control plane and worker.
    Ours(Box<Ours>),
}

impl Edge {
    /// Starts it so that calls to any user are sent on to the callees.
    ///
    /// # Errors
    /// When something does not come up.
    pub async fn start(side: Side, mode: Mode, tier: Tier, bench: &Bench) -> Result<Self> {
        // Inherited by what is started: latency is that of the relay, not of whatever else the machine is doing.
        let ahead = setpriority_process(None, -20).is_ok();
        let edge = Self::start_here(side, mode, tier, bench).await;
        if ahead {
            setpriority_process(None, 0).context("become an ordinary process again")?;
        }
        edge
    }

    async fn start_here(side: Side, mode: Mode, tier: Tier, bench: &Bench) -> Result<Self> {
        match side {
            Side::Peer => {
                let media = Rtpengine::start(bench, EDGE.into(), PEER_CONTROL, PEER_PORTS).await?;
                let setup = kamailio::Setup {
                    transport: Transport::Udp,
                    listen: SocketAddr::new(EDGE.into(), CALLERS_PORT),
                    users: &[],
                    media: Some(&media),
                    srtp: mode.caller().is_some(),
                };
                let secure_callee = mode.callee().map(|_| "CALLEE_SRTP");
                let names: Vec<_> = ["LINE"].into_iter().chain(secure_callee).collect();
                let kamailio = Kamailio::start_with(bench, &setup, &names).await?;
                Ok(Self::Peer(Box::new((kamailio, media))))
            }
            Side::Ours => {
                let setup = ours::Setup {
                    transport: Transport::Udp,
                    address: Some(EDGE),
                    media_tier: tier.name(),
                    users: &[],
                    srtp: false,
                };
                let ours = Ours::start(bench, &setup).await?;
                configure(&ours, mode).await?;
                Ok(Self::Ours(Box::new(ours)))
            }
        }
    }

    /// Where callers send their INVITEs.
    pub fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(EDGE, CALLERS_PORT)
    }

    /// All of its processes.
    pub fn meter(&self) -> Meter {
        match self {
            Self::Peer(peer) => peer.0.meter().with("rtpengine", peer.1.id()),
            Self::Ours(ours) => ours.meter(),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something does not end well.
    pub async fn finish(self) -> Result<()> {
        match self {
            Self::Peer(peer) => {
                let (kamailio, media) = *peer;
                kamailio.finish().await?;
                media.finish().await
            }
            Self::Ours(ours) => ours.finish().await,
        }
    }
}

/// A trunk for callers, a trunk for callees with one line, which is where the callees are, and the route between them.
async fn configure(ours: &Ours, mode: Mode) -> Result<()> {
    let api = ours.api();
    create_trunk(api, "callers", trunk("Callers", CALLERS_PORT, mode.caller())).await?;
    create_trunk(api, "callees", trunk("Callees", CALLEES_PORT, mode.callee())).await?;
    let request = CreateLineRequest {
        parent: "trunks/callees".to_owned(),
        line_id: "phones".to_owned(),
        line: Some(Line {
            host: CALLEE.to_string(),
            port: Some(phones::PORT.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    LineServiceClient::new(api.channel())
        .create_line(request)
        .await
        .context("create the line")?;
    let route = Route {
        r#match: Some(RouteMatch {
            inbound_trunk: "trunks/callers".to_owned(),
            ..Default::default()
        }),
        targets: vec![RouteTarget {
            target: Some(Target::Lines("trunks/callees".to_owned())),
            ..Default::default()
        }],
        ..Default::default()
    };
    create_route(api, "to-callees", route).await?;
    ours.synced().await
}

fn trunk(name: &str, port: u16, suite: Option<SrtpSuite>) -> Trunk {
    let mode = suite.map_or(SrtpMode::Off, |_| SrtpMode::Required);
    let suite = suite.map(|suite| match suite {
        SrtpSuite::AesCm128HmacSha1_32 => proto::SrtpSuite::AesCm128HmacSha132,
        _ => proto::SrtpSuite::AesCm128HmacSha180,
    });
    Trunk {
        display_name: name.to_owned(),
        protocol: TransportProtocol::Udp.into(),
        listen_port: Some(port.into()),
        acl: Some(AccessControl {
            allow: vec!["198.18.0.0/15".to_owned()],
            ..Default::default()
        }),
        max_call_rate: Some("2000/1s".to_owned()),
        codecs: vec![Codec::Pcmu.into(), Codec::Pcma.into()],
        srtp_mode: mode.into(),
        srtp_suites: suite.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}
