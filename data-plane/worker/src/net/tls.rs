//! TLS of the trunks (rows 21-23, 25, 26): rustls configurations made from settings and identity, swapped whole.
//!
//! A connection keeps the configuration it was made with; a new certificate or setting acts from the next handshake on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use trunkline_shared::name::TrunkId;
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::tls::{CipherSuite, TlsIdentity, TlsVersion};
use trunkline_shared::trunk::{Transport, Trunk};

/// A handshake takes a few round trips; a peer that needs longer holds a socket for nothing.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions a listener remembers for resumption.
const SESSIONS: usize = 10_000;

/// Both sides' configuration of one trunk.
#[derive(Debug, Clone)]
pub struct TrunkTls {
    /// For connections phones open.
    pub server: Arc<ServerConfig>,
    /// For connections we open.
    pub client: Arc<ClientConfig>,
    /// What it was made from: nothing is rebuilt while both stay the same.
    source: (Arc<Trunk>, Arc<TlsIdentity>),
}

/// Why a trunk has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The control plane has not sent a certificate yet.
    #[error("no certificate has arrived for the trunk yet")]
    NoIdentity,
    /// The certificate and key cannot be used together, or not with the settings.
    #[error("the certificate cannot be used with these settings")]
    Unusable(#[source] rustls::Error),
    /// The authorities that vouch for peers cannot be used.
    #[error("the trusted certificates cannot be used")]
    TrustAnchors(#[source] rustls::server::VerifierBuilderError),
}

/// TLS of all trunks, for acceptors and diallers.
#[derive(Default)]
pub struct TlsTable(ArcSwap<HashMap<TrunkId, TrunkTls>>);

impl TlsTable {
    /// The configuration of a trunk.
    pub fn of(&self, trunk: &TrunkId) -> Option<TrunkTls> {
        self.0.load().get(trunk).cloned()
    }

    /// Brings the table in step with a snapshot; returns why trunks that should have TLS do not. One that had it before
    /// keeps what it had.
    pub fn update(&self, snapshot: &Snapshot) -> Vec<(TrunkId, TlsError)> {
        let current = self.0.load();
        let mut next = HashMap::new();
        let mut failed = Vec::new();
        for trunk in snapshot.trunks() {
            let had = current.get(&trunk.id);
            // Lines of any trunk may be reached by TLS, so that a UDP trunk with an identity gets its client side too.
            match (snapshot.tls_identity(&trunk.id), had) {
                (Some(identity), Some(had)) if had.is_of(trunk, identity) => {
                    next.insert(trunk.id.clone(), had.clone());
                }
                (Some(identity), had) => match TrunkTls::new(trunk, identity) {
                    Ok(made) => {
                        next.insert(trunk.id.clone(), made);
                    }
                    Err(error) => {
                        next.extend(had.map(|had| (trunk.id.clone(), had.clone())));
                        failed.push((trunk.id.clone(), error));
                    }
                },
                (None, _) if trunk.transport == Transport::Tls => failed.push((trunk.id.clone(), TlsError::NoIdentity)),
                (None, _) => {}
            }
        }
        self.0.store(Arc::new(next));
        failed
    }
}

impl TrunkTls {
    fn is_of(&self, trunk: &Arc<Trunk>, identity: &Arc<TlsIdentity>) -> bool {
        Arc::ptr_eq(&self.source.0, trunk) && Arc::ptr_eq(&self.source.1, identity)
    }

    fn new(trunk: &Arc<Trunk>, identity: &Arc<TlsIdentity>) -> Result<TrunkTls, TlsError> {
        let provider = Arc::new(provider(&trunk.tls.ciphers));
        let versions = versions(trunk.tls.version);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(identity.trusted_ca.iter().map(|der| CertificateDer::from(der.clone())));
        let roots = Arc::new(roots);
        let chain = || -> Vec<_> {
            identity
                .certificate_chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect()
        };
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.private_key.to_vec()));

        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(TlsError::Unusable)?;
        let server = if trunk.tls.mutual_auth {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(TlsError::TrustAnchors)?;
            server.with_client_cert_verifier(verifier)
        } else {
            server.with_no_client_auth()
        };
        let mut server = server.with_single_cert(chain(), key()).map_err(TlsError::Unusable)?;
        // Row 25: our order of preference decides.
        server.ignore_client_order = true;
        server.session_storage = ServerSessionMemoryCache::new(SESSIONS);

        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(TlsError::TrustAnchors)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Unusable)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain(), key())
            .map_err(TlsError::Unusable)?;
        Ok(TrunkTls {
            server: Arc::new(server),
            client: Arc::new(client),
            source: (Arc::clone(trunk), Arc::clone(identity)),
        })
    }
}

static TLS_1_3_THEN_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

fn versions(version: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match version {
        TlsVersion::V1_2 => &TLS_1_3_THEN_1_2[1..],
        TlsVersion::V1_3 => &TLS_1_3_THEN_1_2[..1],
        TlsVersion::SslV23 | TlsVersion::V1_2Or1_3 => &TLS_1_3_THEN_1_2,
    }
}

/// The provider with the chosen TLS 1.2 suites in their order, and all of TLS 1.3's (they cannot be chosen).
fn provider(ciphers: &[CipherSuite]) -> CryptoProvider {
    let tls13 = [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let chosen = ciphers.iter().map(|cipher| suite(*cipher));
    CryptoProvider {
        cipher_suites: tls13.into_iter().chain(chosen).collect(),
        ..ring::default_provider()
    }
}

fn suite(cipher: CipherSuite) -> SupportedCipherSuite {
    match cipher {
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}
