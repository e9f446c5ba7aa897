//! The managed certificate authority: one ECDSA P-256 root in the state directory that signs the control plane's own
//! certificate, those of TLS trunks and those of workers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::files::write_private;

/// Validity of the root.
const ROOT_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin this long before they are made, for peers whose clock is late.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// The managed CA with its signing key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its private key.
pub struct IssuedIdentity {
    /// Leaf first; the root is not in it.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8 (RFC 5208).
    pub key: PrivatePkcs8KeyDer<'static>,
    /// When the leaf ends.
    pub not_after: SystemTime,
}

impl std::fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedIdentity")
            .field("not_after", &self.not_after)
            .field("key", &"<redacted>")
            .finish_non_exhaustive()
    }
}

/// A worker's certificate; its key never leaves the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedWorkerCertificate {
    /// Leaf, PEM.
    pub chain_pem: String,
    /// When it ends.
    pub not_after: SystemTime,
    /// When to renew it: two thirds of its life.
    pub renew_after: SystemTime,
}

/// Why the authority could not be opened or did not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority could not be read or written.
    #[error("access {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        #[source]
        /// What the file system said.
        source: io::Error,
    },
    /// One of `ca.pem` and `ca.key` is there without the other: making a new one would disown every worker.
    #[error("{} exists without its counterpart; restore it or remove both", path.display())]
    HalfAuthority {
        /// The file that is there.
        path: PathBuf,
    },
    /// Certificate or key material is not usable.
    #[error("{operation}")]
    Certificate {
        /// What was being done.
        operation: &'static str,
        #[source]
        /// What the certificate code said.
        source: rcgen::Error,
    },
    /// A certificate could not be read back.
    #[error("read the certificate: {0}")]
    Unreadable(&'static str),
}

impl Authority {
    /// Opens the authority in `state_dir`, or makes one on first start: `ca.pem`, and `ca.key` with mode 0600.
    ///
    /// # Errors
    /// Files that cannot be read or written, half an authority, material that does not parse.
    pub fn load_or_create(state_dir: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let certificate_path = state_dir.join("ca.pem");
        let key_path = state_dir.join("ca.key");
        match (certificate_path.exists(), key_path.exists()) {
            (true, true) => {}
            (false, false) => {
                let (certificate_pem, key_pem) = make_root(now)?;
                // The key first: a crash in between leaves a key without a certificate, which is reported, not replaced.
                for (path, content) in [
                    (&key_path, key_pem.as_bytes()),
                    (&certificate_path, certificate_pem.as_bytes()),
                ] {
                    write_private(path, content).map_err(|source| AuthorityError::File {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            (true, false) => return Err(AuthorityError::HalfAuthority { path: certificate_path }),
            (false, true) => return Err(AuthorityError::HalfAuthority { path: key_path }),
        }
        Self::from_pem(read(&certificate_path)?, &Zeroizing::new(read(&key_path)?))
    }

    fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(certificate("parse the authority's key"))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(certificate("parse the authority's certificate"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Unreadable("the authority's PEM does not parse"))?;
        Ok(Self {
            issuer,
            certificate: CertificateDer::from(pem.contents),
            certificate_pem,
        })
    }

    /// The root certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The root certificate, PEM: what API callers and workers pin.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs a new key for a server that also opens connections: the control plane's listeners, TLS trunks.
    ///
    /// # Errors
    /// When the key cannot be made or signed.
    pub fn issue_server(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        validity: Duration,
        now: SystemTime,
    ) -> Result<IssuedIdentity, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make a server key"))?;
        let mut params = leaf(common_name, validity, now);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params
            .signed_by(&key, &self.issuer)
            .map_err(certificate("sign a server certificate"))?;
        Ok(IssuedIdentity {
            chain: vec![signed.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            not_after: now + validity,
        })
    }

    /// Signs a worker's key. Of the request only the key is used: names and uses are ours to give.
    ///
    /// # Errors
    /// A request that does not parse or whose signature is wrong; a key that cannot be signed.
    pub fn issue_worker(
        &self,
        request: &CertificateSigningRequestDer<'_>,
        identity: &super::WorkerIdentity,
        validity: Duration,
        now: SystemTime,
    ) -> Result<IssuedWorkerCertificate, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_der(request).map_err(certificate("parse the certificate request"))?;
        let signed = worker_params(identity, validity, now)?
            .signed_by(&request.public_key, &self.issuer)
            .map_err(certificate("sign a worker certificate"))?;
        Ok(IssuedWorkerCertificate {
            chain_pem: signed.pem(),
            not_after: now + validity,
            renew_after: now + validity * 2 / 3,
        })
    }
}

fn worker_params(
    identity: &super::WorkerIdentity,
    validity: Duration,
    now: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = leaf(&identity.worker, validity, now);
    params.subject_alt_names = identity
        .uris()
        .into_iter()
        .map(|uri| uri.try_into().map(SanType::URI))
        .collect::<Result<_, _>>()
        .map_err(certificate("name a worker"))?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn leaf(common_name: &str, validity: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn make_root(now: SystemTime) -> Result<(String, Zeroizing<String>), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make the authority's key"))?;
    let mut params = CertificateParams::default();
    // Two installations must not have roots of the same name: verifiers look issuers up by name first.
    let mark: String = key
        .subject_public_key_info()
        .iter()
        .rev()
        .take(4)
        .map(|octet| format!("{octet:02x}"))
        .collect();
    params.distinguished_name = distinguished_name(&format!("Trunkline CA {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + ROOT_VALIDITY).into();
    let root = params.self_signed(&key).map_err(certificate("sign the authority"))?;
    Ok((root.pem(), Zeroizing::new(key.serialize_pem())))
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 bounds a common name at 64 characters; the alternative names are what counts.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

fn certificate(operation: &'static str) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Certificate { operation, source }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::WorkerIdentity, *};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn the_authority_made_on_first_start_is_the_one_found_later() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(directory.path(), now()).unwrap();
        let second = Authority::load_or_create(directory.path(), now() + DAY).unwrap();
        assert_eq!(first.certificate(), second.certificate());
    }

    #[test]
    fn half_an_authority_is_reported_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), now()).unwrap();
        let key = directory.path().join("ca.key");
        fs::remove_file(directory.path().join("ca.pem")).unwrap();
        let error = Authority::load_or_create(directory.path(), now()).unwrap_err();
        assert!(matches!(error, AuthorityError::HalfAuthority { path } if path == key));
    }

    #[test]
    fn a_worker_certificate_carries_our_names_whatever_the_request_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(vec!["control.example.com".to_owned()])
            .unwrap()
            .serialize_request(&key)
            .unwrap();
        let identity = WorkerIdentity {
            worker: "edge-1".into(),
            enrollment: "e7".into(),
        };
        let issued = authority.issue_worker(request.der(), &identity, DAY, now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.chain_pem.as_bytes()).unwrap();
        assert_eq!(WorkerIdentity::from_certificate(&pem.contents), Some(identity));
        let leaf = pem.parse_x509().unwrap();
        assert_eq!(
            leaf.subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            2
        );
        assert_eq!(issued.renew_after, now() + DAY * 2 / 3);
    }

    #[test]
    fn neither_debug_text_shows_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(directory.path(), now()).unwrap();
        let issued = authority.issue_server("localhost", Vec::new(), DAY, now()).unwrap();
        assert!(format!("{issued:?}").contains("<redacted>"));
        assert_eq!(format!("{authority:?}"), "Authority { .. }");
    }
}
