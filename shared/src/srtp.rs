//! SRTP settings of a trunk: suites (row 30) and mode.

use std::fmt;

use crate::trunk::Transport;

/// An SRTP crypto suite (RFC 4568 §6.2, RFC 6188 §5, RFC 7714 §14.1), by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtpSuite {
    /// `AES_CM_128_HMAC_SHA1_80`.
    AesCm128HmacSha1_80,
    /// `AES_CM_128_HMAC_SHA1_32`.
    AesCm128HmacSha1_32,
    /// `AES_192_CM_HMAC_SHA1_80`.
    AesCm192HmacSha1_80,
    /// `AES_192_CM_HMAC_SHA1_32`.
    AesCm192HmacSha1_32,
    /// `AES_256_CM_HMAC_SHA1_80`.
    AesCm256HmacSha1_80,
    /// `AES_256_CM_HMAC_SHA1_32`.
    AesCm256HmacSha1_32,
    /// `AEAD_AES_128_GCM`.
    AeadAes128Gcm,
    /// `AEAD_AES_256_GCM`.
    AeadAes256Gcm,
}

impl SrtpSuite {
    /// Every suite.
    pub const ALL: [Self; 8] = [
        Self::AesCm128HmacSha1_80,
        Self::AesCm128HmacSha1_32,
        Self::AesCm192HmacSha1_80,
        Self::AesCm192HmacSha1_32,
        Self::AesCm256HmacSha1_80,
        Self::AesCm256HmacSha1_32,
        Self::AeadAes128Gcm,
        Self::AeadAes256Gcm,
    ];
    /// The default list.
    pub const DEFAULT_LIST: [Self; 1] = [Self::AesCm128HmacSha1_80];

    /// IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AesCm192HmacSha1_80 => "AES_192_CM_HMAC_SHA1_80",
            Self::AesCm192HmacSha1_32 => "AES_192_CM_HMAC_SHA1_32",
            Self::AesCm256HmacSha1_80 => "AES_256_CM_HMAC_SHA1_80",
            Self::AesCm256HmacSha1_32 => "AES_256_CM_HMAC_SHA1_32",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }
}

impl fmt::Display for SrtpSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When SRTP is used, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SrtpMode {
    /// Required on TLS trunks, off otherwise.
    #[default]
    Auto,
    /// Never.
    Off,
    /// When the peer offers it.
    Optional,
    /// Plain RTP is refused with 488.
    Required,
}

/// When SRTP is used, in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpUse {
    /// Plain RTP only.
    Off,
    /// Either; the offerer decides.
    Optional,
    /// SRTP only.
    Required,
}

impl SrtpMode {
    /// What the mode comes to on a trunk of this transport. Keys travel in the SDP, so `Auto` wants TLS (RFC 4568 §9).
    pub fn effective(self, transport: Transport) -> SrtpUse {
        match (self, transport) {
            (Self::Auto, Transport::Tls) | (Self::Required, _) => SrtpUse::Required,
            (Self::Auto, Transport::Udp | Transport::Tcp) | (Self::Off, _) => SrtpUse::Off,
            (Self::Optional, _) => SrtpUse::Optional,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_the_transport() {
        assert_eq!(SrtpMode::Auto.effective(Transport::Tls), SrtpUse::Required);
        assert_eq!(SrtpMode::Auto.effective(Transport::Udp), SrtpUse::Off);
        assert_eq!(SrtpMode::Auto.effective(Transport::Tcp), SrtpUse::Off);
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            assert_eq!(SrtpMode::Off.effective(transport), SrtpUse::Off);
            assert_eq!(SrtpMode::Optional.effective(transport), SrtpUse::Optional);
            assert_eq!(SrtpMode::Required.effective(transport), SrtpUse::Required);
        }
    }
}
