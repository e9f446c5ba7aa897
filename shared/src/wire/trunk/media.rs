//! Media settings of a trunk.

use trunkline_proto::v1;

use crate::codec::Codec;
use crate::dtmf::{Dtmf, DtmfMethod};
use crate::srtp::SrtpSuite;
use crate::wire::check::Findings;

pub(super) fn codec(codec: v1::Codec) -> Option<Codec> {
    match codec {
        v1::Codec::Unspecified => None,
        v1::Codec::Opus => Some(Codec::Opus),
        v1::Codec::Pcmu => Some(Codec::Pcmu),
        v1::Codec::Pcma => Some(Codec::Pcma),
        v1::Codec::G722 => Some(Codec::G722),
        v1::Codec::G729 => Some(Codec::G729),
    }
}

pub(super) fn codec_to_wire(codec: Codec) -> v1::Codec {
    match codec {
        Codec::Opus => v1::Codec::Opus,
        Codec::Pcmu => v1::Codec::Pcmu,
        Codec::Pcma => v1::Codec::Pcma,
        Codec::G722 => v1::Codec::G722,
        Codec::G729 => v1::Codec::G729,
    }
}

pub(super) fn srtp_suite(suite: v1::SrtpSuite) -> Option<SrtpSuite> {
    match suite {
        v1::SrtpSuite::Unspecified => None,
        v1::SrtpSuite::AesCm128HmacSha180 => Some(SrtpSuite::AesCm128HmacSha1_80),
        v1::SrtpSuite::AesCm128HmacSha132 => Some(SrtpSuite::AesCm128HmacSha1_32),
        v1::SrtpSuite::AesCm192HmacSha180 => Some(SrtpSuite::AesCm192HmacSha1_80),
        v1::SrtpSuite::AesCm192HmacSha132 => Some(SrtpSuite::AesCm192HmacSha1_32),
        v1::SrtpSuite::AesCm256HmacSha180 => Some(SrtpSuite::AesCm256HmacSha1_80),
        v1::SrtpSuite::AesCm256HmacSha132 => Some(SrtpSuite::AesCm256HmacSha1_32),
        v1::SrtpSuite::AeadAes128Gcm => Some(SrtpSuite::AeadAes128Gcm),
        v1::SrtpSuite::AeadAes256Gcm => Some(SrtpSuite::AeadAes256Gcm),
    }
}

pub(super) fn srtp_suite_to_wire(suite: SrtpSuite) -> v1::SrtpSuite {
    match suite {
        SrtpSuite::AesCm128HmacSha1_80 => v1::SrtpSuite::AesCm128HmacSha180,
        SrtpSuite::AesCm128HmacSha1_32 => v1::SrtpSuite::AesCm128HmacSha132,
        SrtpSuite::AesCm192HmacSha1_80 => v1::SrtpSuite::AesCm192HmacSha180,
        SrtpSuite::AesCm192HmacSha1_32 => v1::SrtpSuite::AesCm192HmacSha132,
        SrtpSuite::AesCm256HmacSha1_80 => v1::SrtpSuite::AesCm256HmacSha180,
        SrtpSuite::AesCm256HmacSha1_32 => v1::SrtpSuite::AesCm256HmacSha132,
        SrtpSuite::AeadAes128Gcm => v1::SrtpSuite::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => v1::SrtpSuite::AeadAes256Gcm,
    }
}

pub(super) fn dtmf_settings(f: &mut Findings, raw: v1::DtmfSettings) -> Dtmf {
    let v1::DtmfSettings { payload, method } = raw;
    let default = Dtmf::default();
    let payload = f.number("dtmf.payload", payload.unwrap_or(u32::from(default.payload)), 96..=127);
    let method = f.choice(
        "dtmf.method",
        method,
        default.method,
        |method: v1::DtmfMethod| match method {
            v1::DtmfMethod::Unspecified => None,
            v1::DtmfMethod::RtpEvents => Some(DtmfMethod::RtpEvents),
            v1::DtmfMethod::InBand => Some(DtmfMethod::InBand),
            v1::DtmfMethod::None => Some(DtmfMethod::None),
        },
    );
    Dtmf {
        payload: u8::try_from(payload).unwrap_or(default.payload),
        method,
    }
}
