//! SRTP crypto suites: names on the wire, key and tag lengths, key lifetimes.

use std::fmt;

/// An SRTP protection profile as SDP security descriptions name it (RFC 4568 §6.2, RFC 6188 §5, RFC 7714 §14.1).
///
/// The order of the variants is no preference; a trunk's list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SrtpSuite {
    /// `AES_CM_128_HMAC_SHA1_80` (RFC 4568 §6.2.1).
    AesCm128HmacSha1_80,
    /// `AES_CM_128_HMAC_SHA1_32` (RFC 4568 §6.2.2).
    AesCm128HmacSha1_32,
    /// `AES_192_CM_HMAC_SHA1_80` (RFC 6188 §5).
    AesCm192HmacSha1_80,
    /// `AES_192_CM_HMAC_SHA1_32` (RFC 6188 §5).
    AesCm192HmacSha1_32,
    /// `AES_256_CM_HMAC_SHA1_80` (RFC 6188 §5).
    AesCm256HmacSha1_80,
    /// `AES_256_CM_HMAC_SHA1_32` (RFC 6188 §5).
    AesCm256HmacSha1_32,
    /// `AEAD_AES_128_GCM` (RFC 7714 §14.1).
    AeadAes128Gcm,
    /// `AEAD_AES_256_GCM` (RFC 7714 §14.1).
    AeadAes256Gcm,
}

/// Which of the two spellings of a 192/256-bit CM suite a peer used, so that an answer can echo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SuiteSpelling {
    /// The IANA name, e.g. `AES_256_CM_HMAC_SHA1_80`.
    #[default]
    Iana,
    /// The pattern of the 128-bit names, e.g. `AES_CM_256_HMAC_SHA1_80`: not registered, but sent by FreeSWITCH and others.
    Page,
}

impl SrtpSuite {
    /// Every suite this crate implements.
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

    /// The largest `key_len() + salt_len()` of any suite, in octets.
    pub const MAX_KEY_SALT_LEN: usize = 46;

    /// Reads a suite name in either spelling and any letter case (ABNF strings are case-insensitive, RFC 5234 §2.3).
    /// `None` for a suite this crate does not implement.
    pub fn parse(name: &str) -> Option<(Self, SuiteSpelling)> {
        Self::ALL.into_iter().find_map(|suite| {
            if name.eq_ignore_ascii_case(suite.name()) {
                Some((suite, SuiteSpelling::Iana))
            } else if name.eq_ignore_ascii_case(suite.page_name()) {
                Some((suite, SuiteSpelling::Page))
            } else {
                None
            }
        })
    }

    /// The IANA name: what is sent.
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

    /// The unregistered spelling of the 192/256-bit CM suites; equal to [`name`](Self::name) for the others.
    pub const fn page_name(self) -> &'static str {
        match self {
            Self::AesCm192HmacSha1_80 => "AES_CM_192_HMAC_SHA1_80",
            Self::AesCm192HmacSha1_32 => "AES_CM_192_HMAC_SHA1_32",
            Self::AesCm256HmacSha1_80 => "AES_CM_256_HMAC_SHA1_80",
            Self::AesCm256HmacSha1_32 => "AES_CM_256_HMAC_SHA1_32",
            other => other.name(),
        }
    }

    /// The name in the given spelling.
    pub const fn spelled(self, spelling: SuiteSpelling) -> &'static str {
        match spelling {
            SuiteSpelling::Iana => self.name(),
            SuiteSpelling::Page => self.page_name(),
        }
    }

    /// Master (and session encryption) key length in octets: 16, 24 or 32.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 | Self::AeadAes128Gcm => 16,
            Self::AesCm192HmacSha1_80 | Self::AesCm192HmacSha1_32 => 24,
            Self::AesCm256HmacSha1_80 | Self::AesCm256HmacSha1_32 | Self::AeadAes256Gcm => 32,
        }
    }

    /// Master (and session) salt length in octets: 14 for AES-CM (RFC 3711 §8.2), 12 for AEAD (RFC 7714 §12).
    pub const fn salt_len(self) -> usize {
        if self.is_aead() { 12 } else { 14 }
    }

    /// Octets of `key ‖ salt` inside an `inline:` parameter.
    pub const fn key_salt_len(self) -> usize {
        self.key_len() + self.salt_len()
    }

    /// SRTP authentication tag in octets: 10, 4, or 16 for AEAD.
    pub const fn rtp_tag_len(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm192HmacSha1_80 | Self::AesCm256HmacSha1_80 => 10,
            Self::AesCm128HmacSha1_32 | Self::AesCm192HmacSha1_32 | Self::AesCm256HmacSha1_32 => 4,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 16,
        }
    }

    /// SRTCP authentication tag in octets: 80 bits also for the `_32` suites (RFC 4568 §6.2.2, RFC 6188 §4), 16 for AEAD.
    pub const fn rtcp_tag_len(self) -> usize {
        if self.is_aead() { 16 } else { 10 }
    }

    /// Whether the suite is one of RFC 7714.
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::AeadAes128Gcm | Self::AeadAes256Gcm)
    }

    /// Most SRTP packets one master key may protect: 2^48 (RFC 3711 §9.2, the 48-bit index).
    pub const fn max_rtp_packets(self) -> u64 {
        1 << 48
    }

    /// Most SRTCP packets one master key may protect: 2^31 (RFC 3711 §9.2, the 31-bit index).
    pub const fn max_rtcp_packets(self) -> u64 {
        1 << 31
    }
}

impl fmt::Display for SrtpSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_suite() {
        for suite in SrtpSuite::ALL {
            assert_eq!(SrtpSuite::parse(suite.name()), Some((suite, SuiteSpelling::Iana)));
            let (parsed, spelling) = SrtpSuite::parse(suite.page_name()).unwrap();
            assert_eq!(parsed, suite);
            assert_eq!(suite.spelled(spelling), suite.page_name());
        }
        assert_eq!(SrtpSuite::parse("F8_128_HMAC_SHA1_80"), None);
    }

    #[test]
    fn lengths_are_those_of_the_rfcs() {
        let table = [
            (SrtpSuite::AesCm128HmacSha1_80, 30, 10, 10),
            (SrtpSuite::AesCm128HmacSha1_32, 30, 4, 10),
            (SrtpSuite::AesCm192HmacSha1_80, 38, 10, 10),
            (SrtpSuite::AesCm192HmacSha1_32, 38, 4, 10),
            (SrtpSuite::AesCm256HmacSha1_80, 46, 10, 10),
            (SrtpSuite::AesCm256HmacSha1_32, 46, 4, 10),
            (SrtpSuite::AeadAes128Gcm, 28, 16, 16),
            (SrtpSuite::AeadAes256Gcm, 44, 16, 16),
        ];
        for (suite, key_salt, rtp, rtcp) in table {
            assert_eq!(
                (suite.key_salt_len(), suite.rtp_tag_len(), suite.rtcp_tag_len()),
                (key_salt, rtp, rtcp),
                "{suite}"
            );
            assert!(suite.key_salt_len() <= SrtpSuite::MAX_KEY_SALT_LEN);
        }
    }
}
