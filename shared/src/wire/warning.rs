//! What a trunk asks for that is accepted and deserves a second look.

use trunkline_proto::v1;

use crate::dtmf::DtmfMethod;
use crate::srtp::{SrtpMode, SrtpUse};
use crate::tls::TlsVersion;
use crate::trunk::{Transport, Trunk};

/// The warnings of a trunk, in the order of its fields.
pub fn warnings(trunk: &Trunk) -> Vec<v1::Warning> {
    let tls = trunk.transport == Transport::Tls;
    let srtp = trunk.srtp_use();
    let digest = &trunk.inbound_digest;
    let legacy_codec = trunk
        .codecs
        .iter()
        .any(|codec| matches!(codec, crate::codec::Codec::Opus | crate::codec::Codec::G729));
    let all: [(bool, &str, &str, &str); 11] = [
        (
            trunk.acl.allow_all(),
            "SECURITY_RISK_ALLOW_ALL",
            "acl.allow_all",
            "requests are taken from every address that is not denied",
        ),
        (
            !trunk.acl.allow_all() && trunk.acl.allow().is_empty(),
            "EMPTY_ALLOW_LIST",
            "acl.allow",
            "the list is empty: every inbound request is refused",
        ),
        (
            !trunk.acl.use_source_address(),
            "FORGEABLE_VIA",
            "acl.use_source_address",
            "the Via that is looked up is written by the sender, who can forge it",
        ),
        (
            !trunk.language.is_listed(),
            "UNLISTED_LANGUAGE",
            "language",
            "the tag is well-formed but not one of the listed languages",
        ),
        (
            trunk.tls.sips_uri && !tls,
            "SIPS_WITHOUT_TLS",
            "tls.sips_uri",
            "SIPS URIs need TLS as the protocol; the setting has no effect",
        ),
        (
            trunk.tls.mutual_auth && !tls,
            "MUTUAL_AUTH_WITHOUT_TLS",
            "tls.mutual_auth",
            "client certificates need TLS as the protocol; the setting has no effect on the listener",
        ),
        (
            trunk.tls.version == TlsVersion::SslV23,
            "SSL_V23_NEGOTIATES",
            "tls.version",
            "despite its name the best of TLS 1.2 and 1.3 is negotiated; no SSL version is offered",
        ),
        (
            !tls && matches!(trunk.srtp_mode, SrtpMode::Optional | SrtpMode::Required),
            "SRTP_KEYS_IN_CLEAR",
            "srtp_mode",
            "SRTP keys travel in the SDP, which this protocol does not protect (RFC 4568 §9)",
        ),
        (
            tls && srtp == SrtpUse::Off,
            "TLS_WITHOUT_SRTP",
            "srtp_mode",
            "signalling is encrypted and media is not",
        ),
        (
            trunk.dtmf.method == DtmfMethod::InBand && legacy_codec,
            "IN_BAND_DTMF_UNRELIABLE",
            "dtmf.method",
            "tones do not survive opus and G729; digits of such calls are lost",
        ),
        (
            trunk.acl.allow_all() && !digest.enabled,
            "NO_AUTHENTICATION",
            "inbound_digest.enabled",
            "every address may register and call without a password",
        ),
    ];
    let mut warnings: Vec<v1::Warning> = all
        .into_iter()
        .filter(|(given, ..)| *given)
        .map(|(_, reason, field, description)| warning(reason, field, description))
        .collect();
    let captures = [
        (trunk.diagnostics.media_capture, "diagnostics.media_capture"),
        (trunk.diagnostics.protocol_capture, "diagnostics.protocol_capture"),
    ];
    for (_, field) in captures.into_iter().filter(|(on, _)| *on) {
        let text = "a capture degrades quality of service and records everything callers say and enter";
        warnings.push(warning("CAPTURE_RECORDS_CONTENT", field, text));
    }
    warnings
}

fn warning(reason: &str, field: &str, description: &str) -> v1::Warning {
    v1::Warning {
        reason: reason.into(),
        field: field.into(),
        description: description.into(),
    }
}
