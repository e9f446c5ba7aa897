//! TLS of a trunk, and the certificate of its listener.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::MAX_NAMES;
use crate::name::TrunkId;
use crate::tls::{CipherSuite, SubjectAltName, TlsIdentity, TlsSettings, TlsVersion};
use crate::wire::check::{Checks, Findings, Violations, reason};

/// Longest PEM text, in octets.
const MAX_PEM: usize = 64 * 1024;

pub(super) fn tls_settings(f: &mut Findings, raw: v1::TlsSettings, checks: &Checks) -> TlsSettings {
    let v1::TlsSettings {
        mutual_auth,
        sips_uri,
        version,
        ciphers,
        sans,
        trusted_ca_pem,
        certificate_pem,
        private_key_pem,
    } = raw;
    let mutual_auth = mutual_auth.unwrap_or(false);
    if mutual_auth && trusted_ca_pem.is_empty() && !checks.managed_ca {
        f.precondition(
            "tls.mutual_auth",
            reason::NO_TRUST_ANCHOR,
            "mutual authentication needs an authority that vouches for clients: set tls.trusted_ca_pem",
        );
    }
    let version = tls_version(f, version);
    let ciphers = if ciphers.is_empty() {
        CipherSuite::ALL.to_vec()
    } else {
        let suites: Vec<CipherSuite> = f.each("tls.ciphers", &ciphers, |name| name.parse());
        f.unique("tls.ciphers", &suites);
        suites
    };
    f.at_most("tls.sans", &sans, MAX_NAMES);
    let sans: Vec<SubjectAltName> = f.each("tls.sans", &sans, |san| san.parse());
    f.unique("tls.sans", &sans);
    certificates(f, "tls.trusted_ca_pem", &trusted_ca_pem);
    certificates(f, "tls.certificate_pem", &certificate_pem);
    private_key(f, &private_key_pem, !certificate_pem.is_empty());
    TlsSettings {
        mutual_auth,
        sips_uri: sips_uri.unwrap_or(false),
        version,
        ciphers,
        sans,
        trusted_ca_pem: trusted_ca_pem.into(),
        certificate_pem: certificate_pem.into(),
    }
}

fn tls_version(f: &mut Findings, raw: i32) -> TlsVersion {
    let mut insecure = |name: &str, rfc: &str| {
        let why = format!("{name} must not be used ({rfc}); choose TLS_VERSION_TLS_V1_2 or later");
        f.precondition("tls.version", reason::INSECURE_TLS_VERSION, why);
        TlsVersion::default()
    };
    match v1::TlsVersion::try_from(raw) {
        Ok(v1::TlsVersion::Unspecified) => TlsVersion::default(),
        Ok(v1::TlsVersion::SslV23) => TlsVersion::SslV23,
        Ok(v1::TlsVersion::SslV3) => insecure("SSL 3.0", "RFC 7568"),
        Ok(v1::TlsVersion::TlsV1) => insecure("TLS 1.0", "RFC 8996"),
        Ok(v1::TlsVersion::TlsV11) => insecure("TLS 1.1", "RFC 8996"),
        Ok(v1::TlsVersion::TlsV12) => TlsVersion::V1_2,
        Ok(v1::TlsVersion::TlsV13) => TlsVersion::V1_3,
        Ok(v1::TlsVersion::TlsV12Or13) => TlsVersion::V1_2Or1_3,
        Err(_) => {
            f.field("tls.version", format!("{raw} is not a known value"));
            TlsVersion::default()
        }
    }
}

/// The form only; whether a chain verifies is for those who use it.
fn certificates(f: &mut Findings, field: &str, pem: &str) {
    if pem.is_empty() {
        return;
    }
    let whole: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match whole {
        _ if pem.len() > MAX_PEM => f.field(field, "is longer than 64 KiB"),
        Ok(certificates) if certificates.is_empty() => f.field(field, "holds no PEM certificate"),
        Ok(_) => {}
        Err(_) => f.field(field, "is not a sequence of PEM certificates"),
    }
}

fn private_key(f: &mut Findings, pem: &str, has_certificate: bool) {
    if pem.is_empty() {
        return;
    }
    const FIELD: &str = "tls.private_key_pem";
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        _ if pem.len() > MAX_PEM => f.field(FIELD, "is longer than 64 KiB"),
        Ok(PrivateKeyDer::Pkcs8(_)) if has_certificate => {}
        Ok(PrivateKeyDer::Pkcs8(_)) => f.field(FIELD, "has no certificate: set tls.certificate_pem too"),
        Ok(_) | Err(_) => f.field(FIELD, "is not a PKCS #8 private key in PEM"),
    }
}

pub(super) fn tls_to_wire(tls: &TlsSettings) -> v1::TlsSettings {
    let TlsSettings {
        mutual_auth,
        sips_uri,
        version,
        ciphers,
        sans,
        trusted_ca_pem,
        certificate_pem,
    } = tls;
    v1::TlsSettings {
        mutual_auth: Some(*mutual_auth),
        sips_uri: Some(*sips_uri),
        version: match version {
            TlsVersion::SslV23 => v1::TlsVersion::SslV23,
            TlsVersion::V1_2 => v1::TlsVersion::TlsV12,
            TlsVersion::V1_3 => v1::TlsVersion::TlsV13,
            TlsVersion::V1_2Or1_3 => v1::TlsVersion::TlsV12Or13,
        }
        .into(),
        ciphers: ciphers.iter().map(|cipher| cipher.iana().into()).collect(),
        sans: sans.iter().map(SubjectAltName::to_string).collect(),
        trusted_ca_pem: trusted_ca_pem.to_string(),
        certificate_pem: certificate_pem.to_string(),
        private_key_pem: String::new(),
    }
}

/// Reads the certificate and key of a trunk's listener. The DER is opaque here.
pub fn tls_identity(raw: dataplane::TlsIdentity) -> Result<TlsIdentity, Violations> {
    let dataplane::TlsIdentity {
        trunk,
        certificate_chain_der,
        private_key_der,
        trusted_ca_der,
    } = raw;
    let mut f = Findings::default();
    let private_key = zeroize::Zeroizing::new(private_key_der);
    if certificate_chain_der.iter().all(Vec::is_empty) {
        f.field("certificate_chain_der", "must hold a certificate");
    }
    if private_key.is_empty() {
        f.field("private_key_der", "must be set");
    }
    let trunk = f.ok("trunk", TrunkId::parse_name(&trunk));
    let identity = trunk.map(|trunk| TlsIdentity {
        trunk,
        certificate_chain: certificate_chain_der,
        private_key,
        trusted_ca: trusted_ca_der,
    });
    f.settle_some(identity)
}

/// The message of a certificate and key.
pub fn tls_identity_to_wire(identity: &TlsIdentity) -> dataplane::TlsIdentity {
    let TlsIdentity {
        trunk,
        certificate_chain,
        private_key,
        trusted_ca,
    } = identity;
    dataplane::TlsIdentity {
        trunk: trunk.name(),
        certificate_chain_der: certificate_chain.clone(),
        private_key_der: private_key.to_vec(),
        trusted_ca_der: trusted_ca.clone(),
    }
}
