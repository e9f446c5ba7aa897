//! Why an offer or answer cannot be carried through.

use crate::relay::LegId;
use crate::sdp::SdpError;

/// A failed step of the negotiation. The session is as it was before the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (leg {leg:?})")]
pub struct NegotiationError {
    /// The leg whose description or whose policy decided.
    pub leg: LegId,
    /// What is wrong.
    pub kind: NegotiationErrorKind,
}

/// What is wrong with an offer or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationErrorKind {
    /// The body is not a session description, or not a usable one.
    #[error("the session description is malformed: {0}")]
    Malformed(SdpError),
    /// There is no audio stream to anchor: no m-line, only other media, or only port 0.
    #[error("the session description has no usable audio stream")]
    NoAudio,
    /// Audio over another transport than RTP over UDP keyed by nothing or by SDES: DTLS-SRTP, TCP.
    #[error("the audio stream's transport protocol is not supported")]
    TransportUnsupported,
    /// The media address is a name, a multicast address, missing, or of another family than the one offered to.
    #[error("the media address is unusable")]
    AddressUnusable,
    /// No codec is left after the leg's codec list; transcoding would be needed.
    #[error("no common codec")]
    NoCommonCodec,
    /// The leg requires SRTP and the description has none.
    #[error("SRTP is required and not offered")]
    SrtpRequired,
    /// The leg forbids SRTP and the description insists on it.
    #[error("SRTP is offered and not allowed")]
    SrtpForbidden,
    /// No crypto line of a secure stream is usable: unknown or unlisted suites, malformed keys.
    #[error("no acceptable SRTP suite")]
    NoCommonSuite,
    /// An answer's crypto line does not answer the offer: unknown tag, other suite, or our own key sent back
    /// (RFC 4568 §7.1.2).
    #[error("the answer's crypto line does not match the offer")]
    CryptoMismatch,
    /// An answer's m-lines do not fit the offer's (RFC 3264 §6).
    #[error("the answer's media lines do not match the offer")]
    AnswerMismatch,
    /// An offer came while another one is unanswered (RFC 3264 §4).
    #[error("an earlier offer is still unanswered")]
    OfferPending,
    /// An answer came and no offer waits for one of that leg.
    #[error("no offer waits for this answer")]
    NoOfferPending,
    /// No media port is free.
    #[error("no media port is free")]
    PortsExhausted,
}

impl NegotiationErrorKind {
    /// The warn-code of RFC 3261 §20.43 that says this to the peer, with `None` where the peer's description is not at
    /// fault. 400 rather than 488 suits [`NegotiationErrorKind::Malformed`].
    pub const fn warn_code(self) -> Option<u16> {
        match self {
            NegotiationErrorKind::Malformed(_) => Some(307),
            NegotiationErrorKind::TransportUnsupported => Some(302),
            NegotiationErrorKind::AddressUnusable => Some(301),
            NegotiationErrorKind::NoAudio
            | NegotiationErrorKind::SrtpRequired
            | NegotiationErrorKind::SrtpForbidden
            | NegotiationErrorKind::AnswerMismatch => Some(304),
            NegotiationErrorKind::NoCommonCodec => Some(305),
            NegotiationErrorKind::NoCommonSuite | NegotiationErrorKind::CryptoMismatch => Some(306),
            NegotiationErrorKind::OfferPending
            | NegotiationErrorKind::NoOfferPending
            | NegotiationErrorKind::PortsExhausted => None,
        }
    }

    /// A short name for metric labels and call records, `snake_case`.
    pub const fn label(self) -> &'static str {
        match self {
            NegotiationErrorKind::Malformed(_) => "sdp_malformed",
            NegotiationErrorKind::NoAudio => "no_audio",
            NegotiationErrorKind::TransportUnsupported => "media_transport_unsupported",
            NegotiationErrorKind::AddressUnusable => "media_address_unusable",
            NegotiationErrorKind::NoCommonCodec => "no_common_codec",
            NegotiationErrorKind::SrtpRequired => "srtp_required",
            NegotiationErrorKind::SrtpForbidden => "srtp_forbidden",
            NegotiationErrorKind::NoCommonSuite => "no_common_srtp_suite",
            NegotiationErrorKind::CryptoMismatch => "srtp_answer_mismatch",
            NegotiationErrorKind::AnswerMismatch => "sdp_answer_mismatch",
            NegotiationErrorKind::OfferPending => "sdp_offer_pending",
            NegotiationErrorKind::NoOfferPending => "sdp_no_offer_pending",
            NegotiationErrorKind::PortsExhausted => "media_ports_exhausted",
        }
    }

    pub(super) const fn on(self, leg: LegId) -> NegotiationError {
        NegotiationError { leg, kind: self }
    }
}
