//! Where trunks and media meet: a trunk's settings as a leg's policy, ports from the worker, failures as rejects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand_core::CryptoRng;
use trunkline_media::codec::Codec;
use trunkline_media::negotiate::{
    AddressFamily, DtmfMethod, DtmfPolicy, LegPolicy, MediaSession, NegotiationError, NegotiationErrorKind,
    PortAllocator, PortLease, PortsExhausted, SrtpMode, SrtpPolicy, StreamSummary,
};
use trunkline_media::relay::{DropReason, IdleTimers, LegId, LegStats, MediaPath, PerLeg, SourcePolicy};
use trunkline_media::stats::CodecImpairment;
use trunkline_media::suite::SrtpSuite;
use trunkline_shared::call::{MediaLegRecord, MediaPath as RecordedPath};
use trunkline_shared::dtmf::DtmfMethod as TrunkDtmf;
use trunkline_shared::reject::Reject;
use trunkline_shared::srtp::{SrtpSuite as TrunkSuite, SrtpUse};
use trunkline_shared::trunk::{Transport, Trunk};

use crate::inbound::decided;
use crate::io::{Env, SessionId};
use crate::refuse::Refusal;

mod body;

pub(crate) use body::{carries_sdp, sdp_of};

/// Media of one branch of a call. The bodies it remembers hold keys, so there is no Debug.
pub(crate) struct Media {
    pub session: MediaSession,
    /// The relay session it steers.
    pub relay: SessionId,
    /// Whether the relay has been told of it.
    pub applied: bool,
    /// Trunk and our signalling address of each leg: where ports come from.
    pub legs: PerLeg<PortSource>,
    /// The last body of each leg and what it became: responses repeat theirs.
    repeated: [Option<(Bytes, Bytes)>; 2],
}

/// Where ports of a leg come from.
#[derive(Debug, Clone)]
pub(crate) struct PortSource {
    pub trunk: Arc<Trunk>,
    pub local: IpAddr,
}

/// One leg, as the policy needs it.
pub(crate) struct MediaLeg {
    pub source: PortSource,
    pub transport: Transport,
    /// Where the leg signals from.
    pub signalling_ip: IpAddr,
}

struct EnvPorts<'a> {
    env: &'a dyn Env,
    legs: &'a PerLeg<PortSource>,
}

impl PortAllocator for EnvPorts<'_> {
    fn allocate(&mut self, leg: LegId, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        let source = &self.legs[leg];
        self.env.lease_ports(&source.trunk.id, source.local, family)
    }
}

impl Media {
    pub(crate) fn new(relay: SessionId, caller: MediaLeg, callee: MediaLeg) -> Self {
        let policies = PerLeg::new(policy(&caller), policy(&callee));
        Self {
            session: MediaSession::new(policies),
            relay,
            applied: false,
            legs: PerLeg::new(caller.source, callee.source),
            repeated: [None, None],
        }
    }

    /// An offer of `from`; what the other leg gets.
    pub(crate) fn offer(
        &mut self,
        env: &dyn Env,
        rng: &mut (dyn CryptoRng + Send),
        from: LegId,
        body: &[u8],
    ) -> Result<Bytes, NegotiationError> {
        let mut ports = EnvPorts { env, legs: &self.legs };
        let offered = self.session.offer(from, body, &mut ports, rng);
        self.release_unused(env);
        self.repeated = [None, None];
        offered
    }

    /// An answer of `from`; what the other leg gets.
    pub(crate) fn answer(
        &mut self,
        env: &dyn Env,
        rng: &mut (dyn CryptoRng + Send),
        from: LegId,
        body: &[u8],
    ) -> Result<Bytes, NegotiationError> {
        let answered = self.session.answer(from, body, rng);
        self.release_unused(env);
        answered
    }

    /// SDP in a response of `from`: the answer, when the request offered; otherwise an offer. The same body again becomes
    /// what it became before.
    pub(crate) fn in_response(
        &mut self,
        env: &dyn Env,
        rng: &mut (dyn CryptoRng + Send),
        from: LegId,
        offered: bool,
        body: &Bytes,
    ) -> Result<Bytes, NegotiationError> {
        if let Some((known, became)) = &self.repeated[from as usize]
            && known == body
        {
            return Ok(became.clone());
        }
        let became = if offered {
            self.answer(env, rng, from, body)
        } else {
            self.offer(env, rng, from, body)
        }?;
        self.repeated[from as usize] = Some((body.clone(), became.clone()));
        Ok(became)
    }

    /// The exchange is over for both sides: what was kept of it to answer alike is not needed any more.
    pub(crate) fn acknowledged(&mut self) {
        self.session.confirm();
        self.repeated = [None, None];
    }

    /// Whether the relay has a stream to watch.
    pub(crate) fn is_relayed(&self) -> bool {
        self.applied
            && self
                .session
                .relay_config()
                .is_some_and(|config| !config.streams.is_empty())
    }

    /// Takes back an offer that was refused (RFC 3264 §8).
    pub(crate) fn reject_offer(&mut self, env: &dyn Env) {
        if self.session.reject() {
            self.release_unused(env);
        }
    }

    fn release_unused(&mut self, env: &dyn Env) {
        for lease in self.session.take_released() {
            env.release_ports(lease.id);
        }
    }

    /// Ends it; the ports go back.
    pub(crate) fn close(self, env: &dyn Env) {
        for lease in self.session.close() {
            env.release_ports(lease.id);
        }
    }
}

fn policy(leg: &MediaLeg) -> LegPolicy {
    let trunk = &*leg.source.trunk;
    let suites = trunk.srtp_suites.iter().copied().map(suite).collect();
    let mode = match trunk.srtp_mode.effective(leg.transport) {
        SrtpUse::Off => SrtpMode::Off,
        SrtpUse::Optional => SrtpMode::Optional,
        SrtpUse::Required => SrtpMode::Required,
    };
    let method = match trunk.dtmf.method {
        TrunkDtmf::RtpEvents => DtmfMethod::RtpEvents,
        TrunkDtmf::InBand => DtmfMethod::InBand,
        TrunkDtmf::None => DtmfMethod::None,
    };
    let idle = |two_way| trunk.idle_rtp(two_way);
    LegPolicy {
        codecs: trunk.codecs.iter().copied().map(codec).collect(),
        srtp: SrtpPolicy { mode, suites },
        dtmf: DtmfPolicy {
            method,
            payload: trunk.dtmf.payload,
        },
        source: if trunk.fent {
            SourcePolicy::Latch {
                signalling_ip: leg.signalling_ip,
            }
        } else {
            SourcePolicy::Signalled
        },
        family: AddressFamily::of(leg.source.local),
        rtcp_mux: true,
        dscp: trunk.media_dscp.value(),
        idle: idle(true)
            .zip(idle(false))
            .map(|(two_way, one_way)| IdleTimers { two_way, one_way }),
    }
}

const fn codec(codec: trunkline_shared::codec::Codec) -> Codec {
    use trunkline_shared::codec::Codec as Listed;
    match codec {
        Listed::Opus => Codec::Opus,
        Listed::Pcmu => Codec::Pcmu,
        Listed::Pcma => Codec::Pcma,
        Listed::G722 => Codec::G722,
        Listed::G729 => Codec::G729,
    }
}

const fn suite(suite: TrunkSuite) -> SrtpSuite {
    match suite {
        TrunkSuite::AesCm128HmacSha1_80 => SrtpSuite::AesCm128HmacSha1_80,
        TrunkSuite::AesCm128HmacSha1_32 => SrtpSuite::AesCm128HmacSha1_32,
        TrunkSuite::AesCm192HmacSha1_80 => SrtpSuite::AesCm192HmacSha1_80,
        TrunkSuite::AesCm192HmacSha1_32 => SrtpSuite::AesCm192HmacSha1_32,
        TrunkSuite::AesCm256HmacSha1_80 => SrtpSuite::AesCm256HmacSha1_80,
        TrunkSuite::AesCm256HmacSha1_32 => SrtpSuite::AesCm256HmacSha1_32,
        TrunkSuite::AeadAes128Gcm => SrtpSuite::AeadAes128Gcm,
        TrunkSuite::AeadAes256Gcm => SrtpSuite::AeadAes256Gcm,
    }
}

const fn recorded_suite(suite: SrtpSuite) -> TrunkSuite {
    match suite {
        SrtpSuite::AesCm128HmacSha1_80 => TrunkSuite::AesCm128HmacSha1_80,
        SrtpSuite::AesCm128HmacSha1_32 => TrunkSuite::AesCm128HmacSha1_32,
        SrtpSuite::AesCm192HmacSha1_80 => TrunkSuite::AesCm192HmacSha1_80,
        SrtpSuite::AesCm192HmacSha1_32 => TrunkSuite::AesCm192HmacSha1_32,
        SrtpSuite::AesCm256HmacSha1_80 => TrunkSuite::AesCm256HmacSha1_80,
        SrtpSuite::AesCm256HmacSha1_32 => TrunkSuite::AesCm256HmacSha1_32,
        SrtpSuite::AeadAes128Gcm => TrunkSuite::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => TrunkSuite::AeadAes256Gcm,
    }
}

/// What to answer when a description cannot be carried through, with the setting that decided.
pub(crate) fn refusal(error: NegotiationError, legs: &PerLeg<PortSource>) -> Refusal {
    use NegotiationErrorKind as Kind;
    let trunk = &*legs[error.leg].trunk;
    let codecs = || {
        trunk
            .codecs
            .iter()
            .map(|codec| codec.name())
            .collect::<Vec<_>>()
            .join(",")
    };
    let suites = || {
        trunk
            .srtp_suites
            .iter()
            .map(|suite| suite.name())
            .collect::<Vec<_>>()
            .join(",")
    };
    match error.kind {
        Kind::Malformed(_) => Reject::BadSdp.into(),
        Kind::NoCommonCodec => Refusal::new(Reject::NoCommonCodec).by(decided(&trunk.id, "codecs", codecs())),
        Kind::NoCommonSuite | Kind::CryptoMismatch => {
            Refusal::new(Reject::NoSrtpSuite).by(decided(&trunk.id, "srtp_suites", suites()))
        }
        Kind::SrtpRequired => Refusal::new(Reject::SrtpRequired).by(decided(&trunk.id, "srtp_mode", "REQUIRED")),
        Kind::SrtpForbidden => Refusal::new(Reject::NoUsableMedia).by(decided(&trunk.id, "srtp_mode", "OFF")),
        Kind::OfferPending | Kind::NoOfferPending => Reject::RequestPending.into(),
        Kind::PortsExhausted => Reject::PortsExhausted.into(),
        _ => Reject::NoUsableMedia.into(),
    }
}

/// The rows of a call record: what was agreed, and the figures once there are some.
pub(crate) fn record(summary: &StreamSummary, stats: Option<&PerLeg<LegStats>>) -> Vec<MediaLegRecord> {
    let codec = summary.codecs.first().copied();
    let path = match summary.path {
        MediaPath::Forward => RecordedPath::Forward,
        MediaPath::Rewrite => RecordedPath::Rewrite,
        MediaPath::Recrypt | MediaPath::Tones => RecordedPath::Recrypt,
    };
    let row = |leg: LegId| {
        let mut row = MediaLegRecord {
            caller: leg == LegId::A,
            codec: codec.map_or("", Codec::rtpmap).into(),
            srtp_suite: summary.suites[leg].map(recorded_suite),
            path,
            ..MediaLegRecord::default()
        };
        if let Some(stats) = stats {
            add_figures(&mut row, &stats[leg], codec);
        }
        row
    };
    LegId::BOTH.map(row).into()
}

fn add_figures(row: &mut MediaLegRecord, stats: &LegStats, codec: Option<Codec>) {
    row.packets_received = stats.rtp_received.packets;
    row.octets_received = stats.rtp_received.octets;
    row.packets_lost = i64::try_from(stats.lost).unwrap_or(i64::MAX);
    row.jitter = stats.jitter.min(Duration::from_secs(3600));
    row.packets_sent = stats.rtp_sent.packets;
    row.octets_sent = stats.rtp_sent.octets;
    row.packets_rejected = [DropReason::Unauthentic, DropReason::UnknownMki, DropReason::Replayed]
        .into_iter()
        .map(|reason| stats.drops.count(reason))
        .sum();
    row.dscp_mismatches = stats.dscp_mismatches;
    if stats.rtp_received.packets > 0 {
        let impairment = if codec == Some(Codec::G729) {
            CodecImpairment::G729
        } else {
            CodecImpairment::G711
        };
        let hundredths = (stats.quality(impairment).mos * 100.0).round().clamp(100.0, 450.0);
        row.mos_hundredths = hundredths as u32;
    }
}
