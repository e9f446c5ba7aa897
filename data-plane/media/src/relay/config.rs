//! What a relay session is told: a plain value, compared and applied as a whole.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Index, IndexMut};
use std::time::Duration;

use smallvec::SmallVec;

use crate::srtp::SrtpKey;

/// A side of the call. `A` is the leg of the inbound trunk (it sent the INVITE), `B` that of the outbound trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LegId {
    /// The calling side.
    A,
    /// The called side.
    B,
}

impl LegId {
    /// Both sides.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other side: where a packet of this side may go, and nowhere else.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A pair of values, one for each leg, indexed by [`LegId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerLeg<T>(pub [T; 2]);

impl<T> PerLeg<T> {
    /// The pair (`a`, `b`).
    pub const fn new(a: T, b: T) -> Self {
        Self([a, b])
    }
}

impl<T> Index<LegId> for PerLeg<T> {
    type Output = T;

    fn index(&self, leg: LegId) -> &T {
        &self.0[leg as usize]
    }
}

impl<T> IndexMut<LegId> for PerLeg<T> {
    fn index_mut(&mut self, leg: LegId) -> &mut T {
        &mut self.0[leg as usize]
    }
}

/// RTP or RTCP, as the two ports of one lease. With rtcp-mux only `Rtp` is in use (RFC 5761).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The even port: RTP, or both when multiplexed.
    Rtp,
    /// The odd port: RTCP.
    Rtcp,
}

/// A leased pair of local ports, opaque: the back-end that handed it out knows the sockets behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

/// One local port of a lease: where a packet arrived or leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPort {
    /// The lease.
    pub pair: PortId,
    /// Which of its ports.
    pub component: Component,
}

/// Everything a session is told. Give the whole value again on every change: [`RelaySession::apply`] works out
/// the difference (level-triggered), so applying the same value twice changes nothing.
///
/// [`RelaySession::apply`]: super::RelaySession::apply
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// What holds for all streams of a leg.
    pub legs: PerLeg<LegConfig>,
    /// The anchored media sections in SDP order; refused ones are left out. At most [`MAX_STREAMS`].
    pub streams: SmallVec<[StreamConfig; 1]>,
}

/// Most streams of one session; further ones are ignored by [`RelaySession::apply`].
///
/// [`RelaySession::apply`]: super::RelaySession::apply
pub const MAX_STREAMS: usize = 8;

/// What holds for a leg as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LegConfig {
    /// DSCP this leg's media is sent with, 0..=63; `None` leaves the operating system's default. The back-end sets it on
    /// the leg's sockets; the session counts received packets that carry another value.
    pub dscp: Option<u8>,
    /// Idle supervision; `None` before the call is answered or where the trunk has it switched off.
    pub idle: Option<IdleTimers>,
}

/// How long a leg may be without a valid RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTimers {
    /// When some stream of the leg is `sendrecv`.
    pub two_way: Duration,
    /// When every stream of the leg is one-way or held.
    pub one_way: Duration,
}

impl Default for IdleTimers {
    /// 5 minutes two-way, 12 hours one-way: the defaults of the trunk setting.
    fn default() -> Self {
        Self {
            two_way: Duration::from_secs(5 * 60),
            one_way: Duration::from_secs(12 * 3600),
        }
    }
}

/// One media section with both its sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// The two sides.
    pub legs: PerLeg<StreamLeg>,
}

/// One side of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLeg {
    /// The local ports advertised to this leg.
    pub ports: PortId,
    /// Whether RTP and RTCP share the RTP port (RFC 5761). Otherwise RTCP uses the odd port of the lease.
    pub rtcp_mux: bool,
    /// Where the leg's SDP says its media is; `None` while there is no SDP of it yet or for `c=0.0.0.0`.
    pub remote: Option<RemoteMedia>,
    /// What the **edge** does on this leg: `SendOnly` sends to the leg's remote and refuses what it sends.
    pub direction: Direction,
    /// Which sources are believed.
    pub source: SourcePolicy,
    /// Number of the last completed offer/answer that concerns this leg: raising it allows one new latch.
    pub round: u32,
    /// Keys when this leg is SRTP; `None` is plain RTP.
    pub srtp: Option<SrtpParams>,
    /// What to do with each payload type **received** on this leg.
    pub payloads: PayloadMap,
    /// Audio of this stream must be read or generated by someone above the relay (in-band DTMF, transcoding).
    pub tones: bool,
}

/// Media addresses from an SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteMedia {
    /// RTP address.
    pub rtp: SocketAddr,
    /// RTCP address: `a=rtcp` (RFC 3605) or RTP port + 1. Not used with rtcp-mux.
    pub rtcp: SocketAddr,
}

impl RemoteMedia {
    /// RTP at `rtp`, RTCP at the next port (RFC 3550 §11). A port of 65,535 keeps RTCP there too.
    pub fn with_next_port(rtp: SocketAddr) -> Self {
        Self {
            rtp,
            rtcp: SocketAddr::new(rtp.ip(), rtp.port().saturating_add(1)),
        }
    }
}

/// Media direction as the edge's own SDP towards the leg states it (RFC 8866 §6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Send and receive.
    #[default]
    SendRecv,
    /// Send to the leg only.
    SendOnly,
    /// Receive from the leg only.
    RecvOnly,
    /// Neither. RTCP still flows (RFC 3264 §5.1).
    Inactive,
}

impl Direction {
    /// Whether RTP is sent to the leg.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether RTP of the leg is relayed.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// Which packets of a leg are believed, and where the leg's media is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePolicy {
    /// Only the signalled address and port; media goes there.
    Signalled,
    /// Far-end NAT traversal (RFC 7362 §4): the first acceptable packet after an offer/answer fixes the address.
    /// Plain RTP is acceptable only from `signalling_ip`; SRTP from anywhere once it authenticates (§5).
    /// Until then media goes to the signalled address only if that is at `signalling_ip` too.
    Latch {
        /// Source address of the leg's SIP signalling.
        signalling_ip: IpAddr,
    },
}

/// Keys of an SRTP leg (RFC 4568 §7.1: each side's key protects what that side sends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtpParams {
    /// The remote's key: unprotects what the leg sends. `None` when only our own line is known (an offer not yet answered).
    pub rx: Option<SrtpKey>,
    /// The edge's key: protects what is sent to the leg.
    pub tx: SrtpKey,
}

/// What happens to received payload types; a short list because a leg negotiates few.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PayloadMap {
    /// Rules by received payload type.
    pub rules: SmallVec<[PayloadRule; 4]>,
    /// Whether a payload type without a rule passes unchanged (`true`) or is dropped and counted (`false`).
    pub pass_unlisted: bool,
}

/// One payload type of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadRule {
    /// Payload type as received, 0..=127.
    pub from: u8,
    /// Payload type as sent on the other leg, 0..=127; `None` drops the packet (e.g. events towards a leg without them).
    pub to: Option<u8>,
    /// RTP clock rate in Hz, for jitter (RFC 3550 A.8); 0 leaves the packet out of the jitter.
    pub clock_rate: u32,
    /// A telephone-event or comfort-noise companion: left out of the jitter, its timestamps do not advance like audio's.
    pub companion: bool,
}

impl PayloadMap {
    /// Every payload type passes unchanged, with no jitter computed.
    pub fn transparent() -> Self {
        Self {
            rules: SmallVec::new(),
            pass_unlisted: true,
        }
    }

    /// The rule for a received payload type.
    pub fn rule(&self, payload_type: u8) -> Option<&PayloadRule> {
        self.rules.iter().find(|rule| rule.from == payload_type)
    }

    /// Whether some packet leaves with another number than it came with, or is dropped by a rule.
    pub fn rewrites(&self) -> bool {
        self.rules.iter().any(|rule| rule.to != Some(rule.from))
    }
}

/// How much work a stream costs, cheapest first. A stream takes the cheapest path that satisfies both trunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaPath {
    /// Addresses only.
    Forward,
    /// Payload types too.
    Rewrite,
    /// Encryption on at least one leg.
    Recrypt,
    /// The audio itself is read or generated.
    Tones,
}

impl StreamConfig {
    /// The path this stream takes, in both directions.
    pub fn path(&self) -> MediaPath {
        let legs = &self.legs.0;
        if legs.iter().any(|leg| leg.tones) {
            MediaPath::Tones
        } else if legs.iter().any(|leg| leg.srtp.is_some()) {
            MediaPath::Recrypt
        } else if legs.iter().any(|leg| leg.payloads.rewrites()) {
            MediaPath::Rewrite
        } else {
            MediaPath::Forward
        }
    }
}

impl SessionConfig {
    /// The costliest path of its streams; [`MediaPath::Forward`] without any.
    pub fn path(&self) -> MediaPath {
        self.streams
            .iter()
            .map(StreamConfig::path)
            .max()
            .unwrap_or(MediaPath::Forward)
    }
}
