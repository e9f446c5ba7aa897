//! An imported certificate and its key must belong together, or no handshake of the trunk would ever succeed.

use rustls::{crypto::ring::default_provider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use trunkline_proto::v1;

use super::FieldViolation;

const CERTIFICATE: &str = "tls.certificate_pem";
const KEY: &str = "tls.private_key_pem";

/// Whether the trunk's own certificate, when it has one, can be used with its key.
pub(super) fn check(trunk: &v1::Trunk) -> Option<FieldViolation> {
    let tls = trunk.tls.as_ref().filter(|tls| !tls.certificate_pem.is_empty())?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tls.certificate_pem.as_bytes()).collect();
    let Some(chain) = chain.ok().filter(|chain| !chain.is_empty()) else {
        return Some(FieldViolation::new(CERTIFICATE, "holds no readable certificate"));
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(tls.private_key_pem.as_bytes()) else {
        return Some(FieldViolation::new(KEY, "must hold the private key of certificate_pem"));
    };
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(_) => None,
        Err(rustls::Error::InconsistentKeys(_)) => Some(FieldViolation::new(
            KEY,
            "is not the key of the first certificate in certificate_pem",
        )),
        // What the library says of a key it cannot use holds nothing of the key.
        Err(error) => Some(FieldViolation::new(KEY, format!("cannot be used: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["sip.example.com".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn checked(certificate: &str, key: &str) -> Option<String> {
        let tls = v1::TlsSettings {
            certificate_pem: certificate.to_owned(),
            private_key_pem: key.to_owned(),
            ..Default::default()
        };
        check(&v1::Trunk {
            tls: Some(tls),
            ..Default::default()
        })
        .map(|violation| violation.field)
    }

    #[test]
    fn only_a_certificate_with_its_own_key_passes() {
        let (certificate, key) = pair();
        let (_, other) = pair();
        assert_eq!(checked("", ""), None);
        assert_eq!(checked(&certificate, &key), None);
        assert_eq!(checked(&certificate, &other).as_deref(), Some(KEY));
        assert_eq!(checked(&certificate, "").as_deref(), Some(KEY));
        assert_eq!(checked("-----BEGIN NOTHING-----", &key).as_deref(), Some(CERTIFICATE));
    }
}
