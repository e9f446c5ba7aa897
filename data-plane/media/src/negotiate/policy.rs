//! What a leg's trunk allows, as the negotiation needs it.

use crate::codec::Codec;
use crate::relay::{IdleTimers, SourcePolicy};
use crate::suite::SrtpSuite;

use super::ports::AddressFamily;

/// The settings of one leg. The caller translates its trunk into this; nothing here knows a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegPolicy {
    /// The codecs allowed, most preferred first. Empty allows none: every offer fails.
    pub codecs: Vec<Codec>,
    /// Encryption.
    pub srtp: SrtpPolicy,
    /// How digits travel.
    pub dtmf: DtmfPolicy,
    /// Which sources are believed and where media goes. The signalling address of a called leg is often known only
    /// after its answer: see [`MediaSession::set_source`](super::MediaSession::set_source).
    pub source: SourcePolicy,
    /// The family of the address offered to this leg when it has not shown its own yet.
    pub family: AddressFamily,
    /// Whether multiplexing RTP and RTCP on one port (RFC 5761) is offered to the leg and accepted from it.
    pub rtcp_mux: bool,
    /// DSCP of what is sent to the leg, 0..=63; `None` leaves the operating system's default.
    pub dscp: Option<u8>,
    /// How long the leg may be silent; `None` for ever.
    pub idle: Option<IdleTimers>,
}

/// Encryption of a leg: what is allowed and, most preferred first, with which suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtpPolicy {
    /// What is allowed.
    pub mode: SrtpMode,
    /// The suites offered, in this order, and accepted, in the offerer's order (RFC 4568 §7.1.2). With an empty list
    /// [`SrtpMode::Required`] fails every exchange and [`SrtpMode::Optional`] is [`SrtpMode::Off`].
    pub suites: Vec<SrtpSuite>,
}

/// Whether a leg's media is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpMode {
    /// `RTP/AVP` only. A secure offer is refused; crypto lines beside `RTP/AVP` are ignored.
    Off,
    /// Encrypted when both sides can. Offers are opportunistic, `RTP/AVP` with `a=crypto` lines (RFC 8643 §3.1): of the
    /// ways in use (a second m-line, RFC 5939 capabilities) this is the one most phones understand and the others ignore.
    /// Answers follow the offer.
    Optional,
    /// Encrypted or not at all. Offers are `RTP/SAVP`. An opportunistic offer with a usable crypto line is accepted,
    /// because what results is encrypted; plain ones are refused.
    Required,
}

impl SrtpPolicy {
    /// Plain RTP.
    pub const fn off() -> Self {
        SrtpPolicy {
            mode: SrtpMode::Off,
            suites: Vec::new(),
        }
    }

    /// SRTP or nothing, with these suites.
    pub const fn required(suites: Vec<SrtpSuite>) -> Self {
        SrtpPolicy {
            mode: SrtpMode::Required,
            suites,
        }
    }

    /// SRTP where the peer can, with these suites.
    pub const fn optional(suites: Vec<SrtpSuite>) -> Self {
        SrtpPolicy {
            mode: SrtpMode::Optional,
            suites,
        }
    }

    pub(super) fn allows(&self, suite: SrtpSuite) -> bool {
        self.mode != SrtpMode::Off && self.suites.contains(&suite)
    }

    pub(super) fn offers_crypto(&self) -> bool {
        self.mode != SrtpMode::Off && !self.suites.is_empty()
    }
}

/// How digits travel on a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtmfPolicy {
    /// The method.
    pub method: DtmfMethod,
    /// The payload type of telephone-event/8000 in offers to the leg, 96..=127; answers repeat the offerer's number
    /// (RFC 3264 §6.1). Without effect unless the method is [`DtmfMethod::RtpEvents`].
    pub payload: u8,
}

impl Default for DtmfPolicy {
    /// RTP events with payload type 101.
    fn default() -> Self {
        DtmfPolicy {
            method: DtmfMethod::RtpEvents,
            payload: 101,
        }
    }
}

/// The ways digits travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtmfMethod {
    /// telephone-event payloads (RFC 4733). They are offered to a leg only if the other leg carries them too: the relay
    /// passes events on, it does not make tones of them.
    RtpEvents,
    /// Tones in the audio; telephone-event is left out of every description.
    InBand,
    /// Not at all; telephone-event is left out of every description.
    None,
}
