//! The control plane's own certificate and the TLS settings of its listeners.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use rcgen::SanType;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;

use super::{Authority, AuthorityError, subject_name};

/// Validity of the certificate. It is issued anew at every start and at two thirds of this.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why the listeners have no TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// The authority did not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The TLS library refused.
    #[error("prepare TLS")]
    Tls(#[from] rustls::Error),
    /// The managed CA cannot be used to verify clients.
    #[error("verify clients by the managed authority")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A name is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
}

/// The certificate of both listeners; replaced in place, so that running connections and later ones need no restart.
#[derive(Debug)]
pub struct ServerCertificate {
    names: Vec<SanType>,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

impl ServerCertificate {
    /// Issues one for loopback, this host's name and `extra` names or addresses.
    ///
    /// # Errors
    /// A name that is none; a certificate that cannot be made.
    pub fn issue(
        authority: &Authority,
        hostname: Option<&str>,
        extra: &[String],
        now: SystemTime,
    ) -> Result<Self, ServerTlsError> {
        let mut names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        // A host name that is no DNS name is the host's business, not a reason to stay down.
        let own = ["localhost"].into_iter().chain(hostname).filter_map(subject_name::host);
        let extra = extra
            .iter()
            .map(|name| subject_name::host(name).ok_or_else(|| ServerTlsError::Name(name.clone())));
        for name in own.map(Ok).chain(extra) {
            let name = name?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let current = RwLock::new(Current::issue(authority, &names, now)?);
        Ok(Self { names, current })
    }

    /// Issues another when two thirds of its life are over; true when it did.
    ///
    /// # Errors
    /// A certificate that cannot be made; the old one stays.
    pub fn renew_if_due(&self, authority: &Authority, now: SystemTime) -> Result<bool, ServerTlsError> {
        if self.read().1 > now {
            return Ok(false);
        }
        let next = Current::issue(authority, &self.names, now)?;
        match self.current.write() {
            Ok(mut current) => *current = next,
            Err(poisoned) => *poisoned.into_inner() = next,
        }
        Ok(true)
    }

    fn read(&self) -> (Arc<CertifiedKey>, SystemTime) {
        let current = match self.current.read() {
            Ok(current) => current,
            // Nothing panics between lock and unlock; were it so, the value would still be whole.
            Err(poisoned) => poisoned.into_inner(),
        };
        (Arc::clone(&current.key), current.renew_at)
    }
}

impl Current {
    fn issue(authority: &Authority, names: &[SanType], now: SystemTime) -> Result<Self, ServerTlsError> {
        let issued = authority.issue_server("trunkline-control", names.to_vec(), VALIDITY, now)?;
        let key = CertifiedKey::from_der(issued.chain, PrivateKeyDer::Pkcs8(issued.key), &provider())?;
        Ok(Self {
            key: Arc::new(key),
            renew_at: now + VALIDITY * 2 / 3,
        })
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read().0)
    }
}

/// TLS of the API listener: no client certificates, callers bring tokens.
///
/// # Errors
/// When the TLS library refuses.
pub fn api_config(certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let config = builder()?.with_no_client_auth().with_cert_resolver(certificate);
    Ok(http2(config))
}

/// TLS of the data-plane listener: a client certificate, when presented, must be of the managed CA. Enrollment comes
/// without one; every other method asks for the worker behind it.
///
/// # Errors
/// When the TLS library refuses.
pub fn worker_config(
    certificate: Arc<ServerCertificate>,
    authority: &Authority,
) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
        .allow_unauthenticated()
        .build()?;
    let mut config = builder()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    // A resumed session would carry a certificate past its end.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(http2(config))
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions()
}

fn http2(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_replaced_at_two_thirds_of_its_life() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::load_or_create(directory.path(), now).unwrap();
        let certificate = ServerCertificate::issue(&authority, Some("host-1"), &[], now).unwrap();
        let first = certificate.read().0;
        assert!(!certificate.renew_if_due(&authority, now + VALIDITY / 2).unwrap());
        assert!(Arc::ptr_eq(&first, &certificate.read().0));
        assert!(certificate.renew_if_due(&authority, now + VALIDITY * 2 / 3).unwrap());
        assert!(!Arc::ptr_eq(&first, &certificate.read().0));
    }

    #[test]
    fn a_name_given_twice_counts_once_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::load_or_create(directory.path(), now).unwrap();
        let names = [
            "control.example.com".to_owned(),
            "localhost".to_owned(),
            "192.0.2.1".to_owned(),
        ];
        let certificate = ServerCertificate::issue(&authority, Some("bad host name"), &names, now).unwrap();
        assert_eq!(certificate.names.len(), 5);
        let error = ServerCertificate::issue(&authority, None, &["a b".to_owned()], now).unwrap_err();
        assert!(matches!(error, ServerTlsError::Name(name) if name == "a b"));
    }
}
