//! TLS settings of a trunk (rows 21-23, 25, 26): versions, ciphers, subject alternative names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::host::is_host_name;

/// Versions that can be used. SSL 3.0, TLS 1.0 and 1.1 have no variant: they are refused before (RFC 7568, RFC 8996).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsVersion {
    /// `SSL_V23`: the best of the safe versions, under its old name.
    SslV23,
    /// TLS 1.2 only.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
    /// TLS 1.2 or 1.3.
    V1_2Or1_3,
}

impl TlsVersion {
    /// Whether TLS 1.2 may be negotiated.
    pub const fn allows_1_2(self) -> bool {
        !matches!(self, Self::V1_3)
    }

    /// Whether TLS 1.3 may be negotiated.
    pub const fn allows_1_3(self) -> bool {
        !matches!(self, Self::V1_2)
    }
}

/// Why a text names no usable cipher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// A TLS 1.3 suite: always on with 1.3, not selectable.
    #[error("`{0}` is a TLS 1.3 suite; those are always on with TLS 1.3 and cannot be listed")]
    Tls13(String),
    /// A suite without forward secrecy or authenticated encryption.
    #[error("`{0}` is not offered: only suites with ECDHE and authenticated encryption are (RFC 9325 §4.2)")]
    NotOffered(String),
    /// No such suite.
    #[error("`{0}` is not a known cipher suite")]
    Unknown(String),
}

/// A TLS 1.2 cipher suite we offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CipherSuite {
    /// `TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384`.
    EcdheEcdsaAes256Gcm,
    /// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`.
    EcdheRsaAes256Gcm,
    /// `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`.
    EcdheEcdsaAes128Gcm,
    /// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`.
    EcdheRsaAes128Gcm,
    /// `TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256`.
    EcdheEcdsaChacha20,
    /// `TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256`.
    EcdheRsaChacha20,
}

impl CipherSuite {
    /// Every suite, in the default order of preference.
    pub const ALL: [Self; 6] = [
        Self::EcdheEcdsaAes256Gcm,
        Self::EcdheRsaAes256Gcm,
        Self::EcdheEcdsaAes128Gcm,
        Self::EcdheRsaAes128Gcm,
        Self::EcdheEcdsaChacha20,
        Self::EcdheRsaChacha20,
    ];

    /// IANA name.
    pub const fn iana(self) -> &'static str {
        match self {
            Self::EcdheEcdsaAes256Gcm => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheRsaAes256Gcm => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheEcdsaAes128Gcm => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheRsaAes128Gcm => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheEcdsaChacha20 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Self::EcdheRsaChacha20 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    /// OpenSSL name.
    pub const fn openssl(self) -> &'static str {
        match self {
            Self::EcdheEcdsaAes256Gcm => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::EcdheRsaAes256Gcm => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::EcdheEcdsaAes128Gcm => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::EcdheRsaAes128Gcm => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::EcdheEcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::EcdheRsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }

    /// Whether the server's certificate needs an ECDSA key (otherwise RSA).
    pub const fn needs_ecdsa(self) -> bool {
        matches!(
            self,
            Self::EcdheEcdsaAes256Gcm | Self::EcdheEcdsaAes128Gcm | Self::EcdheEcdsaChacha20
        )
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.iana())
    }
}

impl FromStr for CipherSuite {
    type Err = CipherError;

    /// By IANA or OpenSSL name, in any letter case.
    fn from_str(text: &str) -> Result<Self, CipherError> {
        let name = text.trim();
        let named =
            |suite: &Self| name.eq_ignore_ascii_case(suite.iana()) || name.eq_ignore_ascii_case(suite.openssl());
        if let Some(suite) = Self::ALL.into_iter().find(named) {
            return Ok(suite);
        }
        let upper = name.to_ascii_uppercase();
        Err(match upper.as_str() {
            "TLS_AES_256_GCM_SHA384" | "TLS_AES_128_GCM_SHA256" | "TLS_CHACHA20_POLY1305_SHA256" => {
                CipherError::Tls13(name.into())
            }
            _ if looks_like_cipher(&upper) => CipherError::NotOffered(name.into()),
            _ => CipherError::Unknown(name.into()),
        })
    }
}

/// A name in the style of a cipher suite: told apart only so that the refusal says the right thing.
fn looks_like_cipher(upper: &str) -> bool {
    const PARTS: [&str; 9] = [
        "AES", "RC4", "3DES", "DES-CBC", "NULL", "EXP", "CAMELLIA", "CHACHA20", "ARIA",
    ];
    let style = upper
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    style && PARTS.iter().any(|part| upper.contains(part))
}

/// Why a text is no subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    /// No known prefix.
    #[error("`{0}` starts with none of `DNS:`, `IP:`, `URI:` and `email:`")]
    Prefix(String),
    /// A wildcard: SIP peers MUST NOT match one (RFC 5922 §7.2).
    #[error("`{0}` is a wildcard, which SIP peers do not match (RFC 5922 §7.2)")]
    Wildcard(String),
    /// Not a value of its kind.
    #[error("`{value}` is not {wanted}")]
    Value {
        /// The part after the prefix.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// A subject alternative name (RFC 5280 §4.2.1.6). `Display` is the canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectAltName {
    /// dNSName, in lower case.
    Dns(Arc<str>),
    /// iPAddress.
    Ip(IpAddr),
    /// uniformResourceIdentifier, absolute.
    Uri(Arc<str>),
    /// rfc822Name.
    Email(Arc<str>),
}

impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(uri) => write!(f, "URI:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
        }
    }
}

impl FromStr for SubjectAltName {
    type Err = SanError;

    fn from_str(text: &str) -> Result<Self, SanError> {
        let text = text.trim();
        let (prefix, value) = text.split_once(':').ok_or_else(|| SanError::Prefix(text.into()))?;
        let value = value.trim();
        let wrong = |wanted| SanError::Value {
            value: value.into(),
            wanted,
        };
        match prefix.to_ascii_lowercase().as_str() {
            "dns" if value.contains('*') => Err(SanError::Wildcard(value.into())),
            "dns" if is_host_name(value) => Ok(Self::Dns(value.to_ascii_lowercase().into())),
            "dns" => Err(wrong("a host name")),
            "ip" => value.parse().map(Self::Ip).map_err(|_| wrong("an IP address")),
            "uri" if is_absolute_uri(value) => Ok(Self::Uri(value.into())),
            "uri" => Err(wrong("an absolute URI")),
            "email" if is_mailbox(value) => Ok(Self::Email(value.into())),
            "email" => Err(wrong("a mail address")),
            _ => Err(SanError::Prefix(text.into())),
        }
    }
}

/// `scheme ":" something`, printable ASCII without spaces (RFC 3986 §4.3; IA5String).
fn is_absolute_uri(value: &str) -> bool {
    value.len() <= 2048
        && value
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}*".contains(&b))
        && value.split_once(':').is_some_and(|(scheme, rest)| {
            !rest.is_empty()
                && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        })
}

fn is_mailbox(value: &str) -> bool {
    value.len() <= 254
        && value.rsplit_once('@').is_some_and(|(local, host)| {
            (1..=64).contains(&local.len())
                && local
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"()<>[]:;@\\,\"".contains(&b))
                && is_host_name(host)
        })
}

/// TLS of a trunk's listener and of the connections it opens. The private key of an own certificate is not here: it
/// reaches workers in the [`TlsIdentity`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Row 21: a client certificate is required.
    pub mutual_auth: bool,
    /// Row 22: `sips:` URIs; see [`crate::trunk::Trunk::uses_sips`].
    pub sips_uri: bool,
    /// Row 23.
    pub version: TlsVersion,
    /// Row 25: TLS 1.2 suites in order of preference, never empty.
    pub ciphers: Vec<CipherSuite>,
    /// Row 26.
    pub sans: Vec<SubjectAltName>,
    /// Authorities beside the managed CA (PEM), empty when none.
    pub trusted_ca_pem: Arc<str>,
    /// Own certificate chain (PEM), leaf first; empty for one issued by the control plane.
    pub certificate_pem: Arc<str>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            mutual_auth: false,
            sips_uri: false,
            version: TlsVersion::default(),
            ciphers: CipherSuite::ALL.to_vec(),
            sans: Vec::new(),
            trusted_ca_pem: "".into(),
            certificate_pem: "".into(),
        }
    }
}

/// Certificate and key of a TLS trunk's listener, opaque DER.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The trunk it belongs to.
    pub trunk: crate::name::TrunkId,
    /// Leaf first, never empty.
    pub certificate_chain: Vec<Vec<u8>>,
    /// PKCS #8.
    pub private_key: zeroize::Zeroizing<Vec<u8>>,
    /// Authorities that vouch for peers.
    pub trusted_ca: Vec<Vec<u8>>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("trunk", &self.trunk)
            .field("certificates", &self.certificate_chain.len())
            .field("private_key", &"<set>")
            .field("trusted_ca", &self.trusted_ca.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_a_suite() {
        for suite in CipherSuite::ALL {
            assert_eq!(suite.iana().parse(), Ok(suite));
            assert_eq!(suite.openssl().to_lowercase().parse(), Ok(suite));
        }
    }

    #[test]
    fn refusals_say_why() {
        for (name, error) in [
            ("AES128-SHA", CipherError::NotOffered("AES128-SHA".into())),
            (
                "TLS_RSA_WITH_AES_128_CBC_SHA",
                CipherError::NotOffered("TLS_RSA_WITH_AES_128_CBC_SHA".into()),
            ),
            ("RC4-MD5", CipherError::NotOffered("RC4-MD5".into())),
            (
                "TLS_AES_128_GCM_SHA256",
                CipherError::Tls13("TLS_AES_128_GCM_SHA256".into()),
            ),
            ("HIGH:!aNULL", CipherError::Unknown("HIGH:!aNULL".into())),
            ("", CipherError::Unknown(String::new())),
        ] {
            assert_eq!(name.parse::<CipherSuite>(), Err(error));
        }
    }

    #[test]
    fn alternative_names_are_canonical() {
        for (text, shown) in [
            ("dns:SIP.Example.com", "DNS:sip.example.com"),
            ("IP:2001:DB8::1", "IP:2001:db8::1"),
            ("ip:192.0.2.1", "IP:192.0.2.1"),
            ("uri:sip:example.com", "URI:sip:example.com"),
            ("EMAIL:ops@example.com", "email:ops@example.com"),
        ] {
            assert_eq!(text.parse::<SubjectAltName>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn bad_alternative_names_are_refused() {
        assert!(matches!(
            "DNS:*.example.com".parse::<SubjectAltName>(),
            Err(SanError::Wildcard(_))
        ));
        for bad in ["example.com", "CN:example.com", ""] {
            assert!(
                matches!(bad.parse::<SubjectAltName>(), Err(SanError::Prefix(_))),
                "{bad}"
            );
        }
        for bad in [
            "DNS:",
            "DNS:192.0.2.1",
            "IP:example.com",
            "IP:192.0.2.0/24",
            "URI:example.com",
            "URI:sip:",
            "email:ops",
            "email:@x.y",
        ] {
            assert!(
                matches!(bad.parse::<SubjectAltName>(), Err(SanError::Value { .. })),
                "{bad}"
            );
        }
    }
}
