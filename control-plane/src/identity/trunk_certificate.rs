//! Certificates of trunks: imported ones as they are, the others issued by the managed authority and kept fresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::SanType;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tracing::{error, info};
use trunkline_proto::{dataplane::v1::TlsIdentity, v1};
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, subject_name};
use crate::store::{
    Store, StoreError, line,
    tls_identity::{self, TlsIdentityState},
    trunk,
};

/// Validity of issued certificates; another is issued at two thirds of it.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// Keeps the TLS identities of the store in step with its trunks.
#[derive(Debug)]
pub struct TrunkCertificates {
    authority: Arc<Authority>,
    /// Where phones reach the workers; part of every issued certificate.
    addresses: Vec<String>,
}

/// Why an identity could not be made.
#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("read the imported {0}")]
    Import(&'static str, #[source] rustls_pki_types::pem::Error),
    #[error("the imported certificate has no private key")]
    NoKey,
    #[error("the imported certificate is empty")]
    NoCertificate,
}

impl TrunkCertificates {
    /// Issues by `authority`, for the trunks' names and `addresses` (IP addresses or DNS names of the workers).
    pub fn new(authority: Arc<Authority>, addresses: Vec<String>) -> Self {
        Self { authority, addresses }
    }

    /// Makes what is missing or due, drops what is no longer needed. An identity that cannot be made is logged and
    /// left as it is: it must not hold up the others.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn reconcile(&self, store: &Store, now: SystemTime) -> Result<(), StoreError> {
        let (due, unneeded) = self.plan(store, now).await?;
        if due.is_empty() && unneeded.is_empty() {
            return Ok(());
        }
        let mut tx = store.write().await?;
        for (wanted, inputs) in due {
            match self.make(&wanted, now) {
                Ok((identity, renew_time)) => {
                    tls_identity::put(&mut tx, &identity, &inputs, renew_time).await?;
                    info!(trunk = wanted.trunk.name, "certificate made");
                }
                Err(error) => {
                    error!(
                        trunk = wanted.trunk.name,
                        error = &error as &dyn std::error::Error,
                        "make a certificate"
                    );
                }
            }
        }
        for trunk in unneeded {
            tls_identity::delete(&mut tx, &trunk).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn plan(&self, store: &Store, now: SystemTime) -> Result<(Vec<(Wanted, [u8; 32])>, Vec<String>), StoreError> {
        let mut view = store.read().await?;
        let cipher = view.cipher();
        let dialling: BTreeSet<String> = line::all(view.conn())
            .await?
            .into_iter()
            .filter(|line| line.message.protocol() == v1::TransportProtocol::Tls)
            .filter_map(|line| Some(line.message.name.split_once("/lines/")?.0.to_owned()))
            .collect();
        let mut states: BTreeMap<String, TlsIdentityState> = tls_identity::states(view.conn())
            .await?
            .into_iter()
            .map(|state| (state.trunk.clone(), state))
            .collect();
        let mut due = Vec::new();
        for stored in trunk::all(view.conn()).await? {
            let trunk = stored.message;
            if !needs_identity(&trunk, dialling.contains(&trunk.name)) {
                continue;
            }
            let key = trunk::tls_private_key(view.conn(), &cipher, &trunk.name).await?;
            let wanted = Wanted { trunk, key };
            let inputs = self.inputs(&wanted);
            let fresh = states.remove(&wanted.trunk.name).is_some_and(|state| {
                state.inputs == inputs && state.renew_time.is_none_or(|renew| renew > milliseconds(now))
            });
            if !fresh {
                due.push((wanted, inputs));
            }
        }
        Ok((due, states.into_keys().collect()))
    }

    /// Hash of everything the identity is made from, each part with its length.
    fn inputs(&self, wanted: &Wanted) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(self.authority.certificate());
        let tls = wanted.tls();
        add(tls.certificate_pem.as_bytes());
        add(tls.trusted_ca_pem.as_bytes());
        if tls.certificate_pem.is_empty() {
            for name in self.names(&wanted.trunk) {
                add(name.as_bytes());
            }
        } else {
            add(wanted.key.as_ref().map_or(&[], |key| key.as_bytes()));
        }
        hash.finalize().into()
    }

    fn make(&self, wanted: &Wanted, now: SystemTime) -> Result<(TlsIdentity, Option<i64>), IdentityError> {
        let tls = wanted.tls();
        let (chain, key, renew_time) = if tls.certificate_pem.is_empty() {
            let names = self.names(&wanted.trunk);
            let common_name = wanted.trunk.name.rsplit('/').next().unwrap_or("trunk");
            let names: Vec<SanType> = names.iter().filter_map(|name| subject_name::parse(name)).collect();
            let issued = self.authority.issue_server(common_name, names, VALIDITY, now)?;
            (issued.chain, issued.key, Some(milliseconds(now + VALIDITY * 2 / 3)))
        } else {
            let chain = certificates(&tls.certificate_pem, "certificate")?;
            if chain.is_empty() {
                return Err(IdentityError::NoCertificate);
            }
            let key = wanted.key.as_ref().ok_or(IdentityError::NoKey)?;
            let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
                .map_err(|source| IdentityError::Import("private key", source))?;
            (chain, key, None)
        };
        let mut trusted = vec![self.authority.certificate().to_vec()];
        trusted.extend(
            certificates(&tls.trusted_ca_pem, "trust anchors")?
                .iter()
                .map(|anchor| anchor.to_vec()),
        );
        let identity = TlsIdentity {
            trunk: wanted.trunk.name.clone(),
            certificate_chain_der: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            private_key_der: key.secret_pkcs8_der().to_vec(),
            trusted_ca_der: trusted,
        };
        Ok((identity, renew_time))
    }

    /// Names of an issued certificate: those the trunk asks for (row 26), else its SIP domains, which phones compare
    /// with (RFC 5922 §7.2); always the workers' addresses.
    fn names(&self, trunk: &v1::Trunk) -> BTreeSet<String> {
        let asked = trunk.tls.as_ref().map(|tls| tls.sans.as_slice()).unwrap_or_default();
        // URIs that name workers are not for trunks to carry.
        let asked = asked
            .iter()
            .filter(|name| !name.to_ascii_lowercase().starts_with("uri:trunkline:"))
            .cloned();
        let own = if trunk.tls.as_ref().is_none_or(|tls| tls.sans.is_empty()) {
            &*trunk.domains
        } else {
            &[]
        };
        asked
            .chain(own.iter().chain(&self.addresses).filter_map(|host| host_name(host)))
            .collect()
    }
}

struct Wanted {
    trunk: v1::Trunk,
    key: Option<Zeroizing<String>>,
}

impl Wanted {
    fn tls(&self) -> v1::TlsSettings {
        self.trunk.tls.clone().unwrap_or_default()
    }
}

/// TLS trunks and HTTPS receivers show a certificate; TLS lines need trust anchors and show it when asked.
fn needs_identity(trunk: &v1::Trunk, dials_tls: bool) -> bool {
    let https = trunk
        .provision
        .as_ref()
        .and_then(|provision| provision.https_port)
        .unwrap_or(0)
        != 0;
    trunk.protocol() == v1::TransportProtocol::Tls || https || dials_tls
}

fn host_name(host: &str) -> Option<String> {
    match subject_name::host(host)? {
        SanType::IpAddress(address) => Some(format!("IP:{address}")),
        SanType::DnsName(name) => Some(format!("DNS:{}", name.as_str().to_ascii_lowercase())),
        _ => None,
    }
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Import(what, source))
}

fn milliseconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::store::{KeyFile, Stored};

    struct Bench {
        _directory: tempfile::TempDir,
        store: Store,
        certificates: TrunkCertificates,
        now: SystemTime,
    }

    impl Bench {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&directory.path().join("control.db"), KeyFile::from_key([7; 32]))
                .await
                .unwrap();
            let now = SystemTime::now();
            let authority = Arc::new(Authority::load_or_create(directory.path(), now).unwrap());
            let certificates = TrunkCertificates::new(authority, vec!["192.0.2.1".into()]);
            Self {
                _directory: directory,
                store,
                certificates,
                now,
            }
        }

        async fn put(&self, trunk: &v1::Trunk, key: Option<&str>) {
            let mut tx = self.store.write().await.unwrap();
            if trunk::find(tx.conn(), &trunk.name).await.unwrap().is_some() {
                trunk::update(&mut tx, trunk, trunk::SecretWrite::Keep).await.unwrap();
            } else {
                trunk::insert(&mut tx, trunk, key).await.unwrap();
            }
            tx.commit().await.unwrap();
        }

        async fn reconcile(&self) -> Option<Stored<TlsIdentity>> {
            self.certificates.reconcile(&self.store, self.now).await.unwrap();
            let mut view = self.store.read().await.unwrap();
            let cipher = view.cipher();
            tls_identity::find(view.conn(), &cipher, "trunks/a").await.unwrap()
        }
    }

    fn tls_trunk(sans: &[&str]) -> v1::Trunk {
        v1::Trunk {
            name: "trunks/a".into(),
            display_name: "A".into(),
            protocol: v1::TransportProtocol::Tls as i32,
            tls: Some(v1::TlsSettings {
                sans: sans.iter().map(|san| (*san).to_owned()).collect(),
                ..v1::TlsSettings::default()
            }),
            ..v1::Trunk::default()
        }
    }

    fn names(identity: &TlsIdentity) -> Vec<String> {
        let (_, leaf) = x509_parser::parse_x509_certificate(&identity.certificate_chain_der[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        names.value.general_names.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_tls_trunk_gets_a_certificate_for_its_names_and_the_workers_addresses() {
        let bench = Bench::new().await;
        bench
            .put(&tls_trunk(&["DNS:sip.example.com", "URI:trunkline:worker:x"]), None)
            .await;
        let identity = bench.reconcile().await.unwrap().message;
        let names = names(&identity);
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.iter().any(|name| name.contains("sip.example.com")), "{names:?}");
        assert_eq!(
            identity.trusted_ca_der,
            [bench.certificates.authority.certificate().to_vec()]
        );
        let key = PrivatePkcs8KeyDer::from(identity.private_key_der);
        assert!(KeyPair::try_from(&key).is_ok());
    }

    #[tokio::test]
    async fn it_is_issued_again_only_when_the_names_change_or_it_is_due() {
        let mut bench = Bench::new().await;
        bench.put(&tls_trunk(&["DNS:sip.example.com"]), None).await;
        let first = bench.reconcile().await.unwrap();
        bench
            .put(
                &v1::Trunk {
                    display_name: "B".into(),
                    ..tls_trunk(&["DNS:sip.example.com"])
                },
                None,
            )
            .await;
        assert_eq!(bench.reconcile().await.unwrap().version, first.version);
        bench.put(&tls_trunk(&["DNS:sip.example.org"]), None).await;
        let second = bench.reconcile().await.unwrap();
        assert!(second.version > first.version);
        bench.now += VALIDITY * 2 / 3 + Duration::from_secs(1);
        assert!(bench.reconcile().await.unwrap().version > second.version);
    }

    #[tokio::test]
    async fn a_trunk_that_leaves_tls_loses_its_certificate() {
        let bench = Bench::new().await;
        bench.put(&tls_trunk(&[]), None).await;
        assert!(bench.reconcile().await.is_some());
        bench
            .put(
                &v1::Trunk {
                    protocol: v1::TransportProtocol::Udp as i32,
                    ..tls_trunk(&[])
                },
                None,
            )
            .await;
        assert!(bench.reconcile().await.is_none());
    }

    #[tokio::test]
    async fn an_imported_certificate_is_passed_on_as_it_is() {
        let bench = Bench::new().await;
        let key = KeyPair::generate().unwrap();
        let imported = CertificateParams::new(vec!["pbx.example.com".into()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let mut trunk = tls_trunk(&[]);
        if let Some(tls) = &mut trunk.tls {
            tls.certificate_pem = imported.pem();
            tls.trusted_ca_pem = imported.pem();
        }
        bench.put(&trunk, Some(&key.serialize_pem())).await;
        let identity = bench.reconcile().await.unwrap().message;
        assert_eq!(identity.certificate_chain_der, [imported.der().to_vec()]);
        assert_eq!(identity.private_key_der, key.serialize_der());
        assert_eq!(identity.trusted_ca_der.len(), 2);
    }

    #[tokio::test]
    async fn an_imported_certificate_without_its_key_holds_up_nobody() {
        let bench = Bench::new().await;
        let mut broken = tls_trunk(&[]);
        broken.name = "trunks/broken".into();
        broken.display_name = "Broken".into();
        if let Some(tls) = &mut broken.tls {
            tls.certificate_pem = bench.certificates.authority.certificate_pem().to_owned();
        }
        bench.put(&broken, None).await;
        bench.put(&tls_trunk(&[]), None).await;
        assert!(bench.reconcile().await.is_some());
    }
}
