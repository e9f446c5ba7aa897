//! Calls as records: what happened, who decided, how the media went.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::language::Language;
use crate::name::{ConversationId, LineName, RouteId, TrunkId, WorkerId};
use crate::reject::Reject;
use crate::srtp::SrtpSuite;

/// One call, active or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// Its id, its trace id, and the value of `x-inin-cnv`.
    pub id: ConversationId,
    /// Where it stands.
    pub state: CallState,
    /// Worker that serves it.
    pub worker: Option<WorkerId>,
    /// Call-ID header.
    pub call_id: Arc<str>,
    /// URI of From.
    pub from_uri: Arc<str>,
    /// URI of To.
    pub to_uri: Arc<str>,
    /// Request-URI as received.
    pub request_uri: Arc<str>,
    /// Trunk it came in by.
    pub inbound_trunk: TrunkId,
    /// Trunk it went out by; `None` while none was chosen.
    pub outbound_trunk: Option<TrunkId>,
    /// Route that decided; `None`: the trunk's own phones.
    pub route: Option<RouteId>,
    /// Its language.
    pub language: Option<Language>,
    /// INVITE received.
    pub start_time: SystemTime,
    /// First 18x passed to the caller.
    pub ring_time: Option<SystemTime>,
    /// 200 passed to the caller.
    pub answer_time: Option<SystemTime>,
    /// Every target tried, in order.
    pub attempts: Vec<Attempt>,
    /// A row per audio stream and leg.
    pub media: Vec<MediaLegRecord>,
    /// User that authenticated; empty when none did.
    pub authenticated_user: Arc<str>,
    /// Address the INVITE came from.
    pub source: SocketAddr,
}

impl CallRecord {
    /// How and when it ended.
    pub fn end(&self) -> Option<&CallEnd> {
        match &self.state {
            CallState::Ended(end) => Some(end),
            CallState::Trying | CallState::Ringing | CallState::Answered => None,
        }
    }
}

/// Where a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallState {
    /// INVITE received, no 18x yet.
    Trying,
    /// 18x sent to the caller.
    Ringing,
    /// Answered.
    Answered,
    /// Over.
    Ended(CallEnd),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnd {
    /// When.
    pub time: SystemTime,
    /// Why.
    pub reason: EndReason,
    /// SIP status sent to the caller; 200 for answered calls.
    pub sip_status: u16,
    /// Q.850 cause, when there is one.
    pub q850_cause: Option<u8>,
    /// The setting that decided, when one did.
    pub decided_by: Option<DecidedBy>,
}

/// The trunk setting behind a refusal or a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBy {
    /// The trunk.
    pub trunk: TrunkId,
    /// Path of the setting, e.g. `max_calls`.
    pub setting: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
}

/// Why a call ended: a refusal of ours, or a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Refused or given up by a decision of ours.
    Rejected(Reject),
    /// BYE from the caller's side.
    CallerBye,
    /// BYE from the called side.
    CalleeBye,
    /// CANCEL from the caller.
    CallerCancel,
    /// The target answered with a final failure.
    TargetRefused,
    /// No RTP for too long (row 31).
    RtpIdle,
    /// HangUpCall.
    ApiHangUp,
    /// The session timer ran out (RFC 4028 §10).
    SessionExpired,
    /// No ACK to the 200 (RFC 3261 §13.3.1.4).
    NoAck,
    /// The answer to a delayed offer never came, or could not be used.
    MediaFailed,
    /// The worker was stopped at the end of its drain.
    WorkerStopped,
    /// The worker died; set by the control plane.
    WorkerLost,
}

impl EndReason {
    /// Every release that is no refusal.
    pub const RELEASES: [Self; 11] = [
        Self::CallerBye,
        Self::CalleeBye,
        Self::CallerCancel,
        Self::TargetRefused,
        Self::RtpIdle,
        Self::ApiHangUp,
        Self::SessionExpired,
        Self::NoAck,
        Self::MediaFailed,
        Self::WorkerStopped,
        Self::WorkerLost,
    ];

    /// Stable token of records and metrics.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Rejected(reject) => reject.token(),
            Self::CallerBye => "caller_bye",
            Self::CalleeBye => "callee_bye",
            Self::CallerCancel => "caller_cancel",
            Self::TargetRefused => "target_refused",
            Self::RtpIdle => "rtp_idle",
            Self::ApiHangUp => "api_hang_up",
            Self::SessionExpired => "session_expired",
            Self::NoAck => "no_ack",
            Self::MediaFailed => "media_failed",
            Self::WorkerStopped => "worker_stopped",
            Self::WorkerLost => "worker_lost",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A token of no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known token")]
pub struct UnknownToken(pub String);

impl FromStr for EndReason {
    type Err = UnknownToken;

    fn from_str(token: &str) -> Result<Self, UnknownToken> {
        Self::RELEASES
            .into_iter()
            .find(|reason| reason.token() == token)
            .or_else(|| Reject::from_token(token).map(Self::Rejected))
            .ok_or_else(|| UnknownToken(token.into()))
    }
}

/// One target tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub target: AttemptTarget,
    /// Where the INVITE went, e.g. a contact URI or an address.
    pub destination: Arc<str>,
    /// When it was first sent.
    pub start_time: SystemTime,
    /// Final status; 408 for no answer, 503 for a transport failure; 0 while there is none.
    pub sip_status: u16,
    /// Q.850 cause in the answer.
    pub q850_cause: Option<u8>,
    /// What was done then; `None` while it runs.
    pub decision: Option<AttemptDecision>,
}

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptTarget {
    /// Registered phones of a trunk.
    Phones(TrunkId),
    /// A line.
    Line(LineName),
}

/// `trunks/{trunk}/phones` or the name of the line.
impl fmt::Display for AttemptTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phones(trunk) => write!(f, "trunks/{trunk}/phones"),
            Self::Line(line) => line.fmt(f),
        }
    }
}

impl FromStr for AttemptTarget {
    type Err = crate::name::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix("/phones") {
            Some(trunk) => TrunkId::parse_name(trunk).map(Self::Phones),
            None => text.parse().map(Self::Line),
        }
    }
}

/// What was done after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptDecision {
    /// It answered.
    Answered,
    /// The next target was tried.
    NextTarget,
    /// Its failure ended the call.
    Ended,
    /// We cancelled it.
    Cancelled,
}

impl AttemptDecision {
    /// Stable token of records.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NextTarget => "next_target",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for AttemptDecision {
    type Err = UnknownToken;

    fn from_str(token: &str) -> Result<Self, UnknownToken> {
        [Self::Answered, Self::NextTarget, Self::Ended, Self::Cancelled]
            .into_iter()
            .find(|decision| decision.token() == token)
            .ok_or_else(|| UnknownToken(token.into()))
    }
}

/// Media of one leg of one stream. Counters are of packets and octets on that leg.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MediaLegRecord {
    /// True for the caller's leg.
    pub caller: bool,
    /// Index of the m-line.
    pub stream: u32,
    /// Codec as in SDP, e.g. `PCMU/8000`.
    pub codec: Arc<str>,
    /// SRTP suite; `None` for RTP.
    pub srtp_suite: Option<SrtpSuite>,
    /// How packets go through.
    pub path: MediaPath,
    /// Received from this side.
    pub packets_received: u64,
    /// Octets of those, RTP header included.
    pub octets_received: u64,
    /// Lost on the way to us (RFC 3550 A.3); negative with duplicates.
    pub packets_lost: i64,
    /// Interarrival jitter (RFC 3550 A.8).
    pub jitter: Duration,
    /// Sent to this side.
    pub packets_sent: u64,
    /// Octets of those.
    pub octets_sent: u64,
    /// Refused: authentication or replay.
    pub packets_rejected: u64,
    /// Received with another DSCP than the trunk's.
    pub dscp_mismatches: u64,
    /// Estimated listening quality in hundredths, 100-450; 0 when there was nothing to judge.
    pub mos_hundredths: u32,
}

/// How packets of a stream go through, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum MediaPath {
    /// Addresses only.
    #[default]
    Forward,
    /// Payload types or DTMF events.
    Rewrite,
    /// SRTP on one side or both.
    Recrypt,
}

impl MediaPath {
    /// Stable token of records.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Rewrite => "rewrite",
            Self::Recrypt => "recrypt",
        }
    }
}

impl FromStr for MediaPath {
    type Err = UnknownToken;

    fn from_str(token: &str) -> Result<Self, UnknownToken> {
        [Self::Forward, Self::Rewrite, Self::Recrypt]
            .into_iter()
            .find(|path| path.token() == token)
            .ok_or_else(|| UnknownToken(token.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        for reason in EndReason::RELEASES
            .into_iter()
            .chain(Reject::ALL.map(EndReason::Rejected))
        {
            assert_eq!(reason.token().parse(), Ok(reason));
        }
        assert!("nonsense".parse::<EndReason>().is_err());
        let targets = ["trunks/a/phones", "trunks/a/lines/b"];
        assert!(
            targets
                .iter()
                .all(|text| text.parse::<AttemptTarget>().unwrap().to_string() == *text)
        );
    }

    #[test]
    fn no_release_shares_a_token_with_a_refusal() {
        assert!(
            EndReason::RELEASES
                .into_iter()
                .all(|reason| Reject::from_token(reason.token()).is_none())
        );
    }
}
